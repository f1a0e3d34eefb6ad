"""Which workers a request gets, and why one is refused."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.core.errors import ResourceExhausted, TriptychError, Unavailable
from triptych.core.fleet import Fleet, Introduction, Load, Stage, Worker
from triptych.core.plan import Demand, Goal, Placement, Plan, RoutingPolicy
from triptych.core.routing import choose

DECODER = frozenset({Stage.PREFILL, Stage.DECODE})
POLICY = RoutingPolicy(colocate_below_tokens=32, max_requests_per_worker=4, retry_after=2.5)
LONG, SHORT = Demand(prompt_tokens=100), Demand(prompt_tokens=31)


def worker(name: str, role: Stage, stages: frozenset[Stage], load: Load) -> Worker:
    return Worker(Introduction(name, "process 1", role, stages), load=load)


def encoder(name: str, patches: int = 0, requests: int = 0) -> Worker:
    return worker(name, Stage.ENCODE, frozenset({Stage.ENCODE}), Load(requests, patches=patches))


def prefiller(name: str, tokens: int = 0, requests: int = 0) -> Worker:
    return worker(name, Stage.PREFILL, DECODER, Load(requests, tokens))


def decoder(name: str, requests: int = 0) -> Worker:
    return worker(name, Stage.DECODE, DECODER, Load(requests))


def chosen(demand: Demand, *workers: Worker) -> Plan:
    answer = choose(demand, Fleet(workers), POLICY)
    assert isinstance(answer, Plan), answer
    return answer


def refused(demand: Demand, *workers: Worker) -> TriptychError:
    answer = choose(demand, Fleet(workers), POLICY)
    assert isinstance(answer, TriptychError), answer
    return answer


def test_the_four_layouts() -> None:
    fleet = (encoder("E"), prefiller("P"), decoder("D"))
    layouts = {
        "PD": (LONG, ((), "P", "D")),
        "EPD": (replace(LONG, patches=(64,)), (("E",), "P", "D")),
        "colocated": (SHORT, ((), "D", "D")),
        "ED": (replace(SHORT, patches=(64,)), (("E",), "D", "D")),
    }
    for name, (demand, workers) in layouts.items():
        answer = chosen(demand, *fleet)
        assert (answer.name, (answer.encode, answer.prefill, answer.decode)) == (name, workers)
        assert answer.colocated is (answer.prefill == answer.decode)


def test_a_prompt_is_colocated_below_the_threshold_and_not_at_it() -> None:
    fleet = (prefiller("P"), decoder("D"))
    assert chosen(Demand(31), *fleet).name == "colocated"
    assert "under 32 tokens" in chosen(Demand(31), *fleet).reason
    assert chosen(Demand(32), *fleet).name == "PD"


def test_without_a_prefill_worker_prompts_are_computed_where_they_are_decoded() -> None:
    answer = chosen(LONG, decoder("D1"), decoder("D2", requests=1))
    assert (answer.name, answer.decode, answer.reason) == ("colocated", "D1", "no prefill and decode worker to pair")


def test_without_a_decode_worker_a_prefill_worker_does_it() -> None:
    answer = chosen(LONG, prefiller("P1", requests=1), prefiller("P2"))
    assert (answer.prefill, answer.decode) == ("P2", "P2")


def test_the_caller_may_ask_for_one_worker() -> None:
    answer = chosen(replace(LONG, placement=Placement.COLOCATED), prefiller("P"), decoder("D"))
    assert (answer.name, answer.reason) == ("colocated", "the caller asked for one worker")


def test_the_caller_may_ask_for_two_workers() -> None:
    split = replace(SHORT, placement=Placement.DISAGGREGATED)
    assert chosen(split, prefiller("P"), decoder("D")).name == "PD"
    for fleet in ((decoder("D"),), (decoder("D1"), decoder("D2")), (prefiller("P1"), prefiller("P2"))):
        error = refused(split, *fleet)
        assert isinstance(error, Unavailable)
        assert error.field == "placement"
        assert error.retry_after == 2.5  # the missing one may only be starting again


def test_every_stage_takes_the_worker_with_the_least_of_its_own_work() -> None:
    answer = chosen(
        replace(LONG, patches=(64,)),
        *(encoder("E1", patches=300), encoder("E2", patches=100, requests=3)),
        *(prefiller("P1", tokens=500), prefiller("P2", tokens=20, requests=3)),
        *(decoder("D1", requests=2), decoder("D2", requests=1)),
    )
    assert (answer.encode, answer.prefill, answer.decode) == (("E2",), "P2", "D2")


def test_vectors_are_made_by_the_encode_worker_with_the_fewest_tokens_before_it() -> None:
    texts = Demand(prompt_tokens=500, goal=Goal.VECTORS)
    busy = worker("E1", Stage.ENCODE, frozenset({Stage.ENCODE}), Load(requests=1, tokens=900))
    idle = worker("E2", Stage.ENCODE, frozenset({Stage.ENCODE}), Load(requests=3, tokens=40))
    answer = chosen(texts, busy, idle)
    assert (answer.encode, answer.prefill, answer.decode) == ((), "E2", "E2")
    elsewhere = choose(texts, Fleet((busy, idle)), POLICY, frozenset({"E2"}))
    assert isinstance(elsewhere, Plan)
    assert elsewhere.prefill == "E1"
    assert isinstance(refused(texts, encoder("E", requests=4)), ResourceExhausted)
    assert isinstance(refused(texts, decoder("D")), Unavailable)


def test_equals_are_told_apart_by_name() -> None:
    fleet = [encoder("E1"), encoder("E2"), prefiller("P1"), prefiller("P2"), decoder("D1"), decoder("D2")]
    for order in (fleet, fleet[::-1]):
        answer = chosen(replace(LONG, patches=(64,)), *order)
        assert (answer.encode, answer.prefill, answer.decode) == (("E1",), "P1", "D1")


def test_the_images_of_a_request_spread_over_the_encode_workers_by_their_patches() -> None:
    workers = (prefiller("P"), decoder("D"))

    def spread(patches: tuple[int, ...], *encoders: Worker) -> tuple[str, ...]:
        return chosen(replace(LONG, patches=patches), *encoders, *workers).encode

    same = (64,) * 5
    assert spread(same, encoder("E1"), encoder("E2")) == ("E1", "E2", "E1", "E2", "E1")
    assert spread(same, encoder("E1", patches=192), encoder("E2")) == ("E2", "E2", "E2", "E1", "E2")
    assert spread(same, encoder("E1"), encoder("E2", requests=4)) == ("E1",) * 5
    assert spread((256, 64, 64, 64, 64), encoder("E1"), encoder("E2")) == ("E1", "E2", "E2", "E2", "E2")


def test_where_a_request_has_failed_it_goes_only_if_it_must() -> None:
    fleet = Fleet((prefiller("P1"), prefiller("P2", tokens=900), decoder("D1"), decoder("D2", requests=3)))
    for avoid, pair in (
        ("", ("P1", "D1")),
        ("D1", ("P1", "D2")),
        ("P1 D1", ("P2", "D2")),
        ("D1 D2", ("P1", "P1")),  # a prefill worker is able to decode
        ("P1 P2 D1 D2", ("D1", "D1")),  # at least without another transfer
    ):
        answer = choose(LONG, fleet, POLICY, frozenset(avoid.split()))
        assert isinstance(answer, Plan)
        assert (answer.prefill, answer.decode) == pair


def test_a_stage_without_a_worker_is_unavailable() -> None:
    for demand, fleet in (
        (LONG, ()),
        (LONG, (encoder("E"),)),
        (replace(LONG, patches=(64,)), (prefiller("P"), decoder("D"))),
    ):
        error = refused(demand, *fleet)
        assert isinstance(error, Unavailable)
        assert error.retry_after == 2.5


@pytest.mark.parametrize("full", ["E", "P", "D"])
def test_full_queues_are_named_with_their_limit(full: str) -> None:
    fleet = (encoder("E"), prefiller("P"), decoder("D"))
    loaded = (replace(w, load=Load(requests=4)) if w.worker_id == full else w for w in fleet)
    error = refused(replace(LONG, patches=(64,)), *loaded)
    assert isinstance(error, ResourceExhausted)
    assert error.retry_after == 2.5
    role = {"E": "encode", "P": "prefill", "D": "decode"}[full]
    assert error.message == f"every {role} worker has 4 requests queued"


def test_a_full_prefill_worker_does_not_matter_to_a_colocated_request() -> None:
    assert chosen(SHORT, prefiller("P", requests=4), decoder("D")).decode == "D"


ABILITIES = st.sampled_from([frozenset({Stage.ENCODE}), DECODER, frozenset(Stage)])
WORKERS = st.builds(
    worker,
    st.uuids().map(str),
    st.sampled_from(Stage),
    ABILITIES,
    st.builds(Load, st.integers(0, 5), st.integers(0, 1000), st.integers(0, 4096)),
).filter(lambda w: w.role in w.stages)
FLEETS = st.lists(WORKERS, max_size=6, unique_by=lambda w: w.worker_id).map(lambda ws: Fleet(tuple(ws)))
PATCHES = st.lists(st.integers(1, 256), max_size=8).map(tuple)
DEMANDS = st.builds(Demand, st.integers(1, 64), PATCHES, st.sampled_from(Placement))


@given(DEMANDS, FLEETS)
def test_nobody_is_sent_what_it_cannot_do_or_has_no_room_for(demand: Demand, fleet: Fleet) -> None:
    answer = choose(demand, fleet, POLICY)
    workers = {w.worker_id: w for w in fleet.workers}
    if isinstance(answer, TriptychError):
        assert isinstance(answer, Unavailable | ResourceExhausted)
        return
    assert len(answer.encode) == len(demand.patches)
    duties = [(name, Stage.ENCODE) for name in answer.encode]
    for name, stage in (*duties, (answer.prefill, Stage.PREFILL), (answer.decode, Stage.DECODE)):
        assert stage in workers[name].stages
        assert workers[name].load.requests < POLICY.max_requests_per_worker
    if demand.placement is not Placement.ANY:
        assert answer.colocated is (demand.placement is Placement.COLOCATED)


@given(DEMANDS, FLEETS)
def test_kv_goes_from_prefill_to_decode_workers_only(demand: Demand, fleet: Fleet) -> None:
    """Otherwise two workers could each hold blocks for what the other one has no room to begin."""
    answer = choose(demand, fleet, POLICY)
    roles = {w.worker_id: w.role for w in fleet.workers}
    if isinstance(answer, Plan) and not answer.colocated:
        assert (roles[answer.prefill], roles[answer.decode]) == (Stage.PREFILL, Stage.DECODE)


@given(DEMANDS, FLEETS)
def test_the_order_of_the_fleet_does_not_matter(demand: Demand, fleet: Fleet) -> None:
    answer, again = (choose(demand, Fleet(order), POLICY) for order in (fleet.workers, fleet.workers[::-1]))
    if isinstance(answer, Plan):
        assert answer == again
    else:
        assert type(answer) is type(again)


@given(DEMANDS, FLEETS, st.data())
def test_avoiding_workers_never_makes_a_plan_impossible(demand: Demand, fleet: Fleet, data: st.DataObject) -> None:
    names = [w.worker_id for w in fleet.workers]
    avoid = data.draw(st.frozensets(st.sampled_from(names))) if names else frozenset()
    free, careful = choose(demand, fleet, POLICY), choose(demand, fleet, POLICY, avoid)
    assert isinstance(careful, Plan) or not isinstance(free, Plan)
    if isinstance(choose(demand, fleet.without(avoid), POLICY), Plan):
        assert isinstance(careful, Plan)
        assert not avoid & {*careful.encode, careful.prefill, careful.decode}


@given(st.lists(st.integers(1, 256), min_size=1, max_size=40), st.lists(st.integers(0, 999), min_size=1, max_size=6))
def test_images_even_the_encode_workers_out(patches: list[int], loads: list[int]) -> None:
    encoders = [encoder(f"E{i}", patches=load) for i, load in enumerate(loads)]
    answer = chosen(Demand(100, tuple(patches)), *encoders, prefiller("P"), decoder("D"))
    given_ = Counter[str]()
    for name, size in zip(answer.encode, patches, strict=True):
        given_[name] += size
    totals = {w.worker_id: w.load.patches + given_[w.worker_id] for w in encoders}
    assert max(totals[name] for name in given_) - min(totals.values()) <= max(patches)


@given(DEMANDS, FLEETS)
def test_a_refusal_for_lack_of_room_ends_when_there_is_room(demand: Demand, fleet: Fleet) -> None:
    full = Fleet(tuple(replace(w, load=w.load + Load(requests=4)) for w in fleet.workers))
    emptied = Fleet(tuple(replace(w, load=replace(w.load, requests=0)) for w in fleet.workers))
    assert isinstance(choose(demand, full, POLICY), TriptychError)
    assert not isinstance(choose(demand, emptied, POLICY), ResourceExhausted)


def test_a_pair_that_has_failed_and_has_no_substitute_does_without_a_transfer() -> None:
    fleet = Fleet((prefiller("P"), decoder("D")))
    both = frozenset({"P", "D"})
    plans = [
        choose(each, fleet, RoutingPolicy(), both)
        for each in (LONG, replace(LONG, placement=Placement.DISAGGREGATED))
    ]
    assert [plan.name for plan in plans if isinstance(plan, Plan)] == ["colocated", "PD"]


def test_a_worker_that_holds_the_prompt_comes_before_one_that_has_less_to_do() -> None:
    fleet = (encoder("E0"), encoder("E1", 64, 1), prefiller("P0"), prefiller("P1", 500, 2), decoder("D0"))
    near = frozenset({"E1", "P1"})
    answer = chosen(replace(LONG, patches=(64, 64), near=near), *fleet, decoder("D1", 3))
    assert (answer.encode, answer.prefill, answer.decode) == (("E1", "E1"), "P1", "D0")
    assert chosen(replace(SHORT, near=frozenset({"D1"})), *fleet, decoder("D1", 3)).decode == "D1"
    assert chosen(replace(SHORT, near=frozenset({"D1"})), *fleet, decoder("D1", 4)).decode == "D0", "it has no room"
    avoiding = choose(
        replace(SHORT, near=frozenset({"D1"})), Fleet((*fleet, decoder("D1"))), POLICY, frozenset({"D1"})
    )
    assert isinstance(avoiding, Plan)
    assert avoiding.decode == "D0", "it has failed at this request"
