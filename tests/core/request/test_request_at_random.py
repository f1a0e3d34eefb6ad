"""Any order of events, with losses, repetitions and delays: one end, one Free each, every token once."""

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.core.errors import Cancelled, InvalidArgument, Unavailable
from triptych.core.generation import FinishReason, GeneratedToken, OperationKey
from triptych.core.plan import Demand, Plan
from triptych.core.request import Record, Terms, accepted, step, wakeup
from triptych.core.request import actions as do
from triptych.core.request import events as ev
from triptych.core.request.load import load_of
from triptych.core.request.record import Gone, Holding
from triptych.core.request.states import Ended, Prefilling, Queued

PLANS = (
    Plan((), "P1", "D1", "PD"),
    Plan((), "D2", "D2", "colocated"),
    Plan(("E1", "E2", "E1"), "P1", "D2", "EPD"),
    Plan(("E2",), "D1", "D1", "ED"),
    Plan(("W", "W"), "W", "W", "one worker does everything"),
    Plan(("W",), "W", "D1", "an encode worker prefills"),
)
WORKERS = ("D1", "D2", "E1", "E2", "P1", "W")
DEMAND = Demand(50, (10, 20, 30))


class World:
    """Workers that answer commands, a client, and books of their own to check the record against.

    Args:
        length: Of the whole answer; token i of it has the id 100 + i.
        emitted: Tokens of it that the client has brought along.
    """

    def __init__(self, random: Random, terms: Terms, length: int, emitted: int = 0) -> None:
        self.random = random
        self.length = length
        self.brought = emitted
        self.now = 0.0
        self.record = accepted(OperationKey("r", 7 << 8), terms, self.now, emitted)
        self.ready: list[ev.Event] = []
        self.said: list[ev.Event] = []
        self.answer = list(range(100, 100 + emitted))
        self.ends: list[do.End] = []
        self.places = 0
        self.frees: Counter[Holding] = Counter()
        self.asked: dict[Holding, set[type[do.Action]]] = {}
        self.lost: set[Holding] = set()
        self.owing: set[Holding] = set()

    def apply(self, event: ev.Event) -> None:
        """The event, and everything that must hold after it."""
        before = self.record
        self.record, actions = step(before, event, self.now)
        match event:
            case ev.HolderFreed(worker, epoch):
                if self.frees[Holding(worker, epoch)]:
                    self.owing.discard(Holding(worker, epoch))
            case ev.WorkerLost(worker):
                self.lost |= {holding for holding in self.owing if holding.worker_id == worker}
                self.owing = {holding for holding in self.owing if holding.worker_id != worker}
        for action in actions:
            self._perform(action)
        self._check(before, event, actions)

    def _check(self, before: Record, event: ev.Event, actions: tuple[do.Action, ...]) -> None:
        record = self.record
        assert record.holders | record.freeing == self.owing
        assert not record.holders & record.freeing
        assert record.emitted == len(self.answer)
        assert record.past.replays == self.places
        assert self.places <= record.key.epoch - (7 << 8)
        assert record.past.failures <= record.terms.max_failures
        assert len(self.ends) == isinstance(record.state, Ended)
        if isinstance(before.state, Ended):
            assert actions == ()
        for load in load_of(record, DEMAND).values():
            assert load.requests >= 1
            assert min(load.tokens, load.patches) >= 0
        due = wakeup(record)
        if due is None or self.now < due:
            assert step(record, ev.TimePassed(), self.now) == (record, ())

    def _perform(self, action: do.Action) -> None:
        match action:
            case do.Deliver(tokens):
                assert not self.ends
                self.answer += [token.token_id for token in tokens]
                assert self.answer == list(range(100, 100 + len(self.answer)))
            case do.End():
                self.ends.append(action)
            case do.Place():
                self.places += 1
            case do.SendFree(worker, epoch):
                holding = Holding(worker, epoch)
                self.frees[holding] += 1
                assert self.frees[holding] == 1, "freed twice"
                assert holding in self.owing, "freed without having been asked for anything"
                self.ready.append(ev.HolderFreed(worker, epoch))
            case _:
                self._ask(action)

    def _ask(self, action: do.SendEncode | do.SendReserve | do.SendPrefill | do.SendDecode) -> None:
        holding = Holding(action.worker_id, action.epoch)
        assert action.epoch == self.record.key.epoch
        assert not self.frees[holding], "asked for something after its Free"
        asked = self.asked.setdefault(holding, set())
        assert type(action) not in asked, "asked twice"
        asked.add(type(action))
        if holding not in self.lost:
            self.owing.add(holding)
        worker, epoch = holding
        match action:
            case do.SendEncode(_, _, indices):
                self.ready += [ev.ImagesEncoded(worker, epoch, frozenset({i})) for i in indices]
            case do.SendReserve(_, _, emitted):
                assert emitted == len(self.answer)
                self.ready.append(ev.BlocksReserved(worker, epoch))
            case do.SendPrefill(_, _, emitted, with_ticket):
                assert emitted == len(self.answer)
                self.ready.append(self._tokens(worker, epoch, emitted, emitted + 1))
                assert isinstance(self.record.state, Prefilling)
                kv = ev.KvArrived(self.record.state.plan.decode, epoch)
                self.ready += [kv] if with_ticket else self._rest(worker, epoch, emitted + 1)
            case do.SendDecode(_, _, emitted):
                assert emitted == len(self.answer)
                self.ready += self._rest(worker, epoch, emitted)

    def _rest(self, worker: str, epoch: int, first: int) -> list[ev.Event]:
        ends = sorted(
            {*self.random.sample(range(first + 1, self.length + 1), min(2, self.length - first)), self.length}
        )
        starts = [first, *ends]
        return [self._tokens(worker, epoch, a, b) for a, b in zip(starts, ends, strict=False) if a < b]

    def _tokens(self, worker: str, epoch: int, first: int, until: int) -> ev.TokensArrived:
        reason = FinishReason.LENGTH if until >= self.length else None
        return ev.TokensArrived(
            worker, epoch, first, tuple(GeneratedToken(100 + i) for i in range(first, until)), reason
        )

    def hear(self, *, in_order: bool) -> None:
        """One answer that is under way arrives."""
        event = self.random.choice(self.ready)
        if in_order and isinstance(event, ev.TokensArrived):
            same = [e for e in self.ready if isinstance(e, ev.TokensArrived) and e.worker_id == event.worker_id]
            event = next(e for e in same if e.epoch == event.epoch)
        self.ready.remove(event)
        self.said.append(event)
        self.apply(event)

    def close(self) -> None:
        """The request is given up if it still runs, its client leaves, and everybody acknowledges."""
        self.apply(ev.Abandoned(Cancelled("the end of the test")))
        self.apply(ev.ClientLeft(None))
        if not isinstance(self.record.client, Gone):  # it is away
            self.apply(ev.ClientReturned(Terms()))
            self.apply(ev.ClientLeft(None))
        for holding in sorted(self.owing):
            assert not self.record.closed
            self.apply(ev.HolderFreed(*holding))
        assert self.record.closed
        assert load_of(self.record, DEMAND) == {}
        assert len(self.ends) == 1
        assert set(self.asked) - set(self.frees) <= self.lost


def disturb(world: World) -> None:
    """Something that need not happen: an answer is lost or repeated, time passes, or one of many events."""
    random = world.random
    if world.ready and random.random() < 0.1:
        world.ready.remove(random.choice(world.ready))
    elif world.said and random.random() < 0.2:
        world.apply(random.choice(world.said))
    elif random.random() < 0.1:
        world.now += random.choice((0.1, 3.0, 15.0))
        world.apply(ev.TimePassed())
    else:
        world.apply(any_event(random, world.record.key.epoch))


def any_event(random: Random, epoch: int) -> ev.Event:
    worker, epoch = random.choice(WORKERS), epoch - random.randrange(2)
    rare: list[ev.Event] = [
        ev.StageFailed(worker, epoch, InvalidArgument("no")),
        ev.Completed(FinishReason.STOP),
        ev.Abandoned(Cancelled("by an operator")),
        ev.ClientLeft(None),
    ]
    common: list[ev.Event] = [
        ev.StageFailed(worker, epoch, Unavailable("broken")),
        ev.WorkerLost(worker),
        ev.WorkerDrained(worker),
        ev.HolderFreed(worker, epoch),
        ev.Dispatched(random.choice(PLANS)),
        ev.ClientLeft(Cancelled("the client went away")),
        ev.ClientReturned(Terms()),
    ]
    return random.choice(rare if random.random() < 0.02 else common)


@settings(max_examples=100)
@given(st.sampled_from(PLANS), st.integers(1, 9), st.randoms(use_true_random=False))
def test_in_any_order_of_answers_a_request_finishes(plan: Plan, length: int, random: Random) -> None:
    world = World(random, Terms(), length)
    world.apply(ev.Dispatched(plan))
    while world.ready:
        world.hear(in_order=True)
    assert world.record.closed
    assert world.ends == [do.End(FinishReason.LENGTH)]
    assert len(world.answer) == length
    asked = {*plan.encode, plan.prefill, plan.decode}
    assert world.frees == Counter({Holding(worker, 7 << 8): 1 for worker in asked})


@settings(max_examples=250)
@given(
    st.builds(Terms, st.sampled_from([None, 40.0]), st.integers(0, 4), st.just(30.0), st.sampled_from([0.0, 10.0])),
    st.integers(2, 9),
    st.integers(0, 1),
    st.randoms(use_true_random=False),
)
def test_in_any_disorder_the_books_balance(terms: Terms, length: int, emitted: int, random: Random) -> None:
    world = World(random, terms, length, emitted)
    for _ in range(60):
        if isinstance(world.record.state, Queued) and random.random() < 0.7:
            world.apply(ev.Dispatched(random.choice(PLANS)))
        elif world.ready and random.random() < 0.7:
            world.hear(in_order=random.random() < 0.9)
        else:
            disturb(world)
    world.close()
    if world.ends == [do.End(FinishReason.LENGTH)]:
        assert len(world.answer) == length


@settings(max_examples=100)
@given(st.integers(0, 4), st.integers(0, 6), st.randoms(use_true_random=False))
def test_the_retry_budget_is_what_was_agreed(budget: int, losses: int, random: Random) -> None:
    world = World(random, Terms(max_failures=budget), length=9)
    for _ in range(losses):
        plan = random.choice(PLANS)
        world.apply(ev.Dispatched(plan))
        world.apply(ev.WorkerLost(plan.prefill))
    assert (world.places, world.ends == []) == (min(budget, losses), losses <= budget)
    if world.ends:
        assert isinstance(world.ends[0].outcome, Unavailable)
    world.close()
