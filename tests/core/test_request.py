"""Any order of events: every holder is freed once, the client hears one end, and the books balance."""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.core import events as ev
from triptych.core.errors import Cancelled, Internal, TriptychError, Unavailable
from triptych.core.generation import FinishReason, GeneratedToken, OperationKey
from triptych.core.load import Load, load_of
from triptych.core.plan import Demand, Plan
from triptych.core.request import Decoding, Encoding, Ended, Prefilling, Queued, Record, Reserving, step

PD = Plan((), "P", "D", "")
COLOCATED = Plan((), "D", "D", "")
EPD = Plan(("E1", "E2", "E1"), "P", "D", "")
ED = Plan(("E1",), "D", "D", "")
EVERYWHERE = Plan(("W", "W"), "W", "W", "")
ENCODER_PREFILLS = Plan(("W",), "W", "D", "")
PLANS = (PD, COLOCATED, EPD, ED, EVERYWHERE, ENCODER_PREFILLS)
WORKERS = ("E1", "E2", "P", "D", "W")
KEY = OperationKey("r", 3)
TOKEN = GeneratedToken(7)


def tokens(*ids: int, end: FinishReason | None = None) -> ev.TokensArrived:
    return ev.TokensArrived(tuple(map(GeneratedToken, ids)), end)


def run(*events: ev.Event) -> tuple[Record, list[ev.Action]]:
    record, done = Record(KEY), list[ev.Action]()
    for event in events:
        record, actions = step(record, event)
        done += actions
    return record, done


DISPATCHED = ev.Dispatched(EPD)
ENCODED = ev.ImagesEncoded(frozenset({0, 1, 2}))
PATHS = {
    "queued": ((), Queued()),
    "encoding": ((DISPATCHED,), Encoding(EPD, frozenset({0, 1, 2}))),
    "reserving": ((DISPATCHED, ENCODED), Reserving(EPD)),
    "prefilling": ((DISPATCHED, ENCODED, ev.BlocksReserved()), Prefilling(EPD)),
    "decoding, KV under way": ((DISPATCHED, ENCODED, ev.BlocksReserved(), tokens(7)), Decoding(EPD, True)),
    "decoding": (
        (DISPATCHED, ENCODED, ev.BlocksReserved(), tokens(7), ev.KvArrived()),
        Decoding(EPD, False),
    ),
}
HELD = {
    "queued": set(),
    "encoding": {"E1", "E2"},
    "reserving": {"E1", "E2", "D"},
    "prefilling": {"E1", "E2", "D", "P"},
    "decoding, KV under way": {"E1", "E2", "D", "P"},
    "decoding": {"E1", "E2", "D"},
}
ENDINGS: tuple[tuple[ev.Event, FinishReason | type[TriptychError]], ...] = (
    (ev.Abandoned(Cancelled("gone")), Cancelled),
    (ev.StopTextFound(), FinishReason.STOP),
)


@pytest.mark.parametrize("name", PATHS)
def test_the_way_of_a_request(name: str) -> None:
    events, state = PATHS[name]
    record, _ = run(*events)
    assert record.state == state
    assert record.holders == HELD[name]


@pytest.mark.parametrize("ending", ENDINGS, ids=["abandoned", "stop text"])
@pytest.mark.parametrize("name", PATHS)
def test_an_end_in_any_state_frees_every_holder_once(
    name: str, ending: tuple[ev.Event, FinishReason | type[TriptychError]]
) -> None:
    events, _ = PATHS[name]
    before, _ = run(*events)
    after, (end, *frees) = step(before, ending[0])
    assert isinstance(end, ev.End)
    assert end.outcome is ending[1] or type(end.outcome) is ending[1]
    assert frees == [ev.SendFree(worker) for worker in sorted(HELD[name])]
    assert after.freeing == before.freeing | before.holders
    assert not after.holders


@pytest.mark.parametrize("worker", ["E1", "E2", "P", "D"])
@pytest.mark.parametrize("name", PATHS)
def test_a_lost_worker_ends_the_request_while_it_is_needed(name: str, worker: str) -> None:
    events, _ = PATHS[name]
    before, _ = run(*events)
    after, actions = step(before, ev.WorkerLost(worker))
    done_with = {
        "queued": {"E1", "E2", "P", "D"},
        "decoding, KV under way": {"E1", "E2"},
        "decoding": {"E1", "E2", "P"},
    }
    assert worker not in after.holders | after.freeing
    if worker in done_with.get(name, set()):
        assert (after.state, actions) == (before.state, ())
    else:
        end, *frees = actions
        assert isinstance(end, ev.End)
        assert isinstance(end.outcome, Unavailable)
        assert end.outcome.retry_after == 1.0
        assert frees == [ev.SendFree(other) for other in sorted(HELD[name] - {worker})]


@pytest.mark.parametrize("worker", ["E1", "E2", "P", "D"])
@pytest.mark.parametrize("name", PATHS)
def test_a_failure_counts_while_its_worker_holds_something(name: str, worker: str) -> None:
    events, _ = PATHS[name]
    before, _ = run(*events)
    after, actions = step(before, ev.StageFailed(worker, Internal("broken")))
    assert isinstance(after.state, Ended) is (worker in HELD[name])
    assert bool(actions) is (worker in HELD[name])


def test_an_event_that_does_not_matter_gives_the_same_record_back() -> None:
    record, _ = run(DISPATCHED)
    for event in (DISPATCHED, ev.BlocksReserved(), tokens(7), ev.KvArrived()):
        assert step(record, event) == (record, ())


def test_logprobs_reach_the_client_as_they_came() -> None:
    event = ev.TokensArrived((TOKEN, GeneratedToken(8)), None)
    _, actions = run(ev.Dispatched(COLOCATED), event)
    assert actions[-1] == ev.Deliver(event.tokens)


def test_load_follows_the_state() -> None:
    demand = Demand(prompt_tokens=100, images=3)
    one = Load(requests=1)
    expected = {
        "queued": {},
        "encoding": {"E1": Load(1, 0, 2), "E2": Load(1, 0, 1), "P": Load(1, 100), "D": one},
        "reserving": {"E1": one, "E2": one, "P": Load(1, 100), "D": one},
        "prefilling": {"E1": one, "E2": one, "P": Load(1, 100), "D": one},
        "decoding, KV under way": {"E1": one, "E2": one, "P": one, "D": one},
        "decoding": {"E1": one, "E2": one, "D": one},
    }
    assert {name: load_of(run(*events)[0], demand) for name, (events, _) in PATHS.items()} == expected


def test_a_worker_in_several_roles_is_one_request() -> None:
    record, _ = run(ev.Dispatched(EVERYWHERE))
    assert load_of(record, Demand(prompt_tokens=5, images=2)) == {"W": Load(1, 5, 2)}


@dataclass
class World:
    """Workers that answer commands in any order, and a client that counts what it hears."""

    record: Record = field(default_factory=lambda: Record(KEY))
    ready: list[ev.Event] = field(default_factory=list)
    frees: Counter[str] = field(default_factory=Counter)
    holders: set[str] = field(default_factory=set)
    heard: list[ev.Deliver | ev.End] = field(default_factory=list)
    loads: dict[str, Load] = field(default_factory=dict)

    def apply(self, event: ev.Event, demand: Demand) -> None:
        self.record, actions = step(self.record, event)
        before, after = self.loads, load_of(self.record, demand)
        self.loads = after
        assert all(load.requests == 1 and load.tokens >= 0 and load.images >= 0 for load in after.values())
        assert isinstance(self.record.state, Queued) or after.keys() <= before.keys() or not before
        for action in actions:
            self._perform(action)

    def _perform(self, action: ev.Action) -> None:
        match action:
            case ev.Deliver() | ev.End():
                self.heard.append(action)
            case ev.SendFree(worker):
                self.frees[worker] += 1
                self.ready.append(ev.HolderFreed(worker))
            case ev.SendEncode(worker, indices):
                self.holders.add(worker)
                self.ready += [ev.ImagesEncoded(frozenset({i})) for i in indices]
            case ev.SendReserve(worker):
                self.holders.add(worker)
                self.ready.append(ev.BlocksReserved())
            case ev.SendPrefill(worker, with_ticket):
                self.holders.add(worker)
                self.ready.append(tokens(7))
                self.ready += [ev.KvArrived()] if with_ticket else [tokens(8, 9), tokens(2, end=FinishReason.STOP)]
            case ev.SendDecode():
                self.ready += [tokens(8), tokens(9, 10), tokens(2, end=FinishReason.LENGTH)]


NOISE = st.one_of(
    st.sampled_from(PLANS).map(ev.Dispatched),
    st.sampled_from(WORKERS).map(ev.WorkerLost),
    st.sampled_from(WORKERS).map(ev.HolderFreed),
    st.sampled_from(WORKERS).map(lambda worker: ev.StageFailed(worker, Internal("broken"))),
    st.sampled_from(
        [ev.BlocksReserved(), ev.KvArrived(), ev.StopTextFound(), ev.Abandoned(Cancelled("gone")), tokens(3)]
    ),
    st.frozensets(st.integers(0, 3)).map(ev.ImagesEncoded),
)


def check_end(world: World) -> None:
    ends = [item for item in world.heard if isinstance(item, ev.End)]
    assert len(ends) == 1
    assert world.heard[-1] is ends[0]
    assert world.loads == {}
    assert world.record.closed


@settings(max_examples=300)
@given(st.sampled_from(PLANS), st.randoms(use_true_random=False))
def test_in_any_order_of_answers_a_request_finishes(plan: Plan, random: Random) -> None:
    world, demand = World(), Demand(50, len(plan.encode))
    world.apply(ev.Dispatched(plan), demand)
    while world.ready:
        # Tokens of one worker keep their order; everything else may overtake.
        event = random.choice(world.ready)
        if isinstance(event, ev.TokensArrived):
            event = next(e for e in world.ready if isinstance(e, ev.TokensArrived))
        world.ready.remove(event)
        world.apply(event, demand)
    check_end(world)
    assert world.frees == Counter(set(plan.encode) | {plan.prefill, plan.decode})
    delivered = [t.token_id for item in world.heard if isinstance(item, ev.Deliver) for t in item.tokens]
    assert delivered in ([7, 8, 9, 2], [7, 8, 9, 10, 2])


@settings(max_examples=500)
@given(st.sampled_from(PLANS), st.lists(NOISE, max_size=25), st.randoms(use_true_random=False))
def test_in_any_disorder_nothing_is_freed_twice_and_nothing_follows_the_end(
    plan: Plan, noise: list[ev.Event], random: Random
) -> None:
    world, demand = World(), Demand(50, len(plan.encode))
    world.apply(ev.Dispatched(plan), demand)
    lost = set()
    while world.ready or noise:
        source = random.choice([source for source in (world.ready, noise) if source])
        event = source.pop(random.randrange(len(source)))
        if isinstance(event, ev.WorkerLost):
            lost.add(event.worker_id)
        world.apply(event, demand)
        assert not world.record.holders & world.record.freeing
    world.apply(ev.Abandoned(Cancelled("the end of the test")), demand)
    for worker in WORKERS:
        world.apply(ev.HolderFreed(worker), demand)
    check_end(world)
    assert world.frees.total() == len(world.frees)
    assert world.frees.keys() <= world.holders
    assert world.holders - lost <= world.frees.keys()
