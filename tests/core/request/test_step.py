"""Every event in every state: what counts, what is ignored, who is freed, what begins again."""

from dataclasses import replace
from typing import get_args

import pytest

from triptych.core.errors import Cancelled, DeadlineExceeded, Internal, InvalidArgument, Unavailable
from triptych.core.fleet import Load
from triptych.core.generation import FinishReason, GeneratedToken, OperationKey
from triptych.core.plan import Demand, Plan
from triptych.core.request import Record, Terms, accepted, step, wakeup
from triptych.core.request import actions as do
from triptych.core.request import events as ev
from triptych.core.request import states as st
from triptych.core.request.load import load_of
from triptych.core.request.record import Away, Gone, Holding

EPD = Plan(("E1", "E2", "E1"), "P", "D", "")
COLOCATED = Plan((), "D", "D", "")
DEMAND = Demand(prompt_tokens=100, patches=(30, 40, 50))
EPOCH = 3 << 8
NOW = 50.0
TERMS = Terms(deadline=1000.0, max_failures=2, patience=60.0, linger=10.0)
WORKERS = ("E1", "E2", "P", "D", "X")


def tokens(worker: str, epoch: int, first: int, *ids: int, end: FinishReason | None = None) -> ev.TokensArrived:
    return ev.TokensArrived(worker, epoch, first, tuple(map(GeneratedToken, ids)), end)


def run(*events: ev.Event, terms: Terms = TERMS) -> Record:
    record = accepted(OperationKey("r", EPOCH), terms, NOW)
    for event in events:
        record, _ = step(record, event, NOW)
    return record


DISPATCHED = ev.Dispatched(EPD)
ENCODED = (ev.ImagesEncoded("E1", EPOCH, frozenset({0, 2})), ev.ImagesEncoded("E2", EPOCH, frozenset({1})))
FIRST = tokens("P", EPOCH, 0, 7)
TO_PREFILLING = (DISPATCHED, *ENCODED, ev.BlocksReserved("D", EPOCH))
LEFT = ev.ClientLeft(Cancelled("the client went away"))
AWAY = (DISPATCHED, LEFT)
REPLAYED = (*TO_PREFILLING, FIRST, ev.WorkerLost("P"))
RECORDS = {
    "queued": run(),
    "encoding": run(DISPATCHED),
    "reserving": run(DISPATCHED, *ENCODED),
    "prefilling": run(*TO_PREFILLING),
    "prefilling, KV first": run(*TO_PREFILLING, ev.KvArrived("D", EPOCH)),
    "prefilling, colocated": run(ev.Dispatched(COLOCATED)),
    "transferring": run(*TO_PREFILLING, FIRST),
    "decoding": run(*TO_PREFILLING, FIRST, ev.KvArrived("D", EPOCH)),
    "queued again": run(*REPLAYED),
    "encoding again": run(*REPLAYED, DISPATCHED),
    "encoding for nobody": run(*AWAY),
    "finished": run(*TO_PREFILLING, FIRST, ev.Completed(FinishReason.STOP)),
    "finished, told": run(*TO_PREFILLING, ev.Completed(FinishReason.STOP), ev.ClientLeft(None)),
    "failed": run(*TO_PREFILLING, ev.StageFailed("P", EPOCH, InvalidArgument("no"))),
    "failed for nobody": run(*AWAY, ev.Abandoned(Internal("defect"))),
    "closed": run(ev.Abandoned(Internal("defect")), ev.ClientLeft(None)),
}
HELD = {
    "queued": "",
    "encoding": "E1 E2",
    "reserving": "D E1 E2",
    "prefilling": "D E1 E2 P",
    "prefilling, KV first": "D E1 E2 P",
    "prefilling, colocated": "D",
    "transferring": "D E1 E2 P",
    "decoding": "D E1 E2",
    "queued again": "",
    "encoding again": "E1 E2",
    "encoding for nobody": "E1 E2",
}


def said_by_workers(epoch: int) -> list[ev.Event]:
    said: list[ev.Event] = []
    for worker in WORKERS:
        said += [ev.ImagesEncoded(worker, epoch, frozenset({0, 1, 2, 9})), ev.BlocksReserved(worker, epoch)]
        said += [tokens(worker, epoch, first, 7, 8) for first in (0, 1, 5)]
        said += [tokens(worker, epoch, 1, 8, end=FinishReason.LENGTH), tokens(worker, epoch, 0)]
        said += [ev.KvArrived(worker, epoch), ev.HolderFreed(worker, epoch)]
        said += [ev.StageFailed(worker, epoch, error) for error in (Unavailable("gone"), InvalidArgument("no"))]
    return said


EVENTS = [
    *(event for epoch in (EPOCH - 256, EPOCH, EPOCH + 1, EPOCH + 2) for event in said_by_workers(epoch)),
    *(ev.Dispatched(plan) for plan in (EPD, COLOCATED)),
    *(kind(worker) for kind in (ev.WorkerLost, ev.WorkerDrained) for worker in WORKERS),
    *(ev.Completed(FinishReason.STOP), ev.Abandoned(Internal("a defect"))),
    *(ev.ClientLeft(None), LEFT, ev.ClientReturned(Terms()), ev.TimePassed()),
]


def test_the_product_is_whole() -> None:
    assert {type(record.state) for record in RECORDS.values()} == set(get_args(st.State))
    assert {type(event) for event in EVENTS} == set(get_args(ev.Event))


@pytest.mark.parametrize("name", RECORDS)
def test_every_event_is_handled(name: str) -> None:
    before = RECORDS[name]
    for event in EVENTS:
        for now in (NOW, NOW + 10.0, 2000.0):
            after, actions = step(before, event, now)
            assert not after.holders & after.freeing, event
            frees = [Holding(a.worker_id, a.epoch) for a in actions if isinstance(a, do.SendFree)]
            assert len(frees) == len(set(frees)), event
            assert set(frees) <= before.holders | {h for h in after.freeing if h.epoch == before.key.epoch}, event
            if isinstance(before.state, st.Ended):
                assert (after.state, actions) == (before.state, ()), event
            if before.closed:
                assert after.closed, event
            if isinstance(before.client, Gone):
                assert isinstance(after.client, Gone), event


@pytest.mark.parametrize("name", RECORDS)
def test_what_is_said_of_another_attempt_changes_who_was_freed_and_nothing_else(name: str) -> None:
    before = RECORDS[name]
    for epoch in (EPOCH - 256, EPOCH, EPOCH + 1, EPOCH + 2):
        for event in said_by_workers(epoch) if epoch != before.key.epoch else ():
            freed = {Holding(event.worker_id, epoch)} if isinstance(event, ev.HolderFreed) else set()
            assert step(before, event, NOW) == (replace(before, freeing=before.freeing - freed), ())


@pytest.mark.parametrize("name", RECORDS)
def test_nothing_changes_before_the_moment_that_is_named(name: str) -> None:
    before = RECORDS[name]
    due = wakeup(before)
    assert step(before, ev.TimePassed(), 1e9 if due is None else due - 1e-6) == (before, ())
    assert due is None or step(before, ev.TimePassed(), due)[0] != before


@pytest.mark.parametrize("name", HELD)
def test_who_holds_something_and_an_end_frees_each_of_them_once(name: str) -> None:
    before, held = RECORDS[name], HELD[name].split()
    assert [holding.worker_id for holding in sorted(before.holders)] == held
    for event in (ev.Completed(FinishReason.STOP), ev.Abandoned(Internal("a defect"))):
        after, (end, *frees) = step(before, event, NOW)
        assert isinstance(end, do.End)
        assert frees == [do.SendFree(worker, before.key.epoch) for worker in held]
        assert (after.holders, after.freeing) == (frozenset(), before.freeing | before.holders)


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("name", HELD)
def test_whoever_is_lost_while_needed_begins_a_new_attempt(name: str, worker: str) -> None:
    before, held = RECORDS[name], HELD[name].split()
    needed = {"queued": "", "queued again": "", "prefilling, colocated": "D", "decoding": "D", "transferring": "P D"}
    after, actions = step(before, ev.WorkerLost(worker), NOW)
    assert worker not in {holding.worker_id for holding in after.holders | after.freeing}
    if worker not in needed.get(name, "E1 E2 P D").split():
        assert (after.state, after.key, actions) == (before.state, before.key, ())
        return
    assert (after.key.epoch, after.state, after.emitted) == (before.key.epoch + 1, st.Queued(NOW), before.emitted)
    assert (after.past.failures, after.past.avoid) == (before.past.failures + 1, before.past.avoid | {worker})
    assert actions == (*(do.SendFree(w, before.key.epoch) for w in held if w != worker), do.Place())


@pytest.mark.parametrize("name", HELD)
def test_a_drained_worker_costs_nothing_of_the_retry_budget(name: str) -> None:
    before = RECORDS[name]
    after, actions = step(before, ev.WorkerDrained("D"), NOW)
    if isinstance(before.state, st.Queued):
        assert (after, actions) == (before, ())
    else:
        assert (after.past.failures, after.past.avoid) == (before.past.failures, before.past.avoid)
        assert (after.past.replays, after.past.emitted) == (before.past.replays + 1, before.emitted)
        assert actions == (*(do.SendFree(w, before.key.epoch) for w in HELD[name].split()), do.Place())


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("name", HELD)
def test_a_failure_counts_while_its_worker_holds_something(name: str, worker: str) -> None:
    before = RECORDS[name]
    holds = worker in HELD[name].split()
    healed, _ = step(before, ev.StageFailed(worker, before.key.epoch, Unavailable("broken")), NOW)
    assert (healed.key.epoch - before.key.epoch, healed.past.failures - before.past.failures) == (holds, holds)
    ended, _ = step(before, ev.StageFailed(worker, before.key.epoch, InvalidArgument("no")), NOW)
    assert isinstance(ended.state, st.Failed) is holds


def test_load_follows_the_state() -> None:
    one = Load(requests=1)
    expected = {
        "queued": {},
        "encoding": {"E1": Load(1, 0, 80), "E2": Load(1, 0, 40), "P": Load(1, 100), "D": one},
        "reserving": {"E1": one, "E2": one, "P": Load(1, 100), "D": one},
        "prefilling": {"E1": one, "E2": one, "P": Load(1, 100), "D": one},
        "prefilling, colocated": {"D": Load(1, 100)},
        "transferring": {"P": one, "D": one},
        "decoding": {"P": one, "D": one},  # embeddings that E1 and E2 keep are no work; P has not been freed yet
        # Whoever has not given back what it held for an attempt that is over is still at it.
        "encoding again": {"E1": Load(2, 0, 80), "E2": Load(2, 0, 40), "P": Load(1, 101), "D": Load(requests=2)},
        "finished": dict.fromkeys(("E1", "E2", "P", "D"), one),
        "failed": dict.fromkeys(("E1", "E2", "P", "D"), one),
        "freed": {},
    }
    records = RECORDS | {"freed": replace(RECORDS["finished"], freeing=frozenset())}
    assert {name: load_of(records[name], DEMAND) for name in expected} == expected


def test_a_client_that_lost_its_connection_is_waited_for_only_if_that_was_agreed() -> None:
    waited_for, _ = step(RECORDS["decoding"], LEFT, NOW)
    assert (waited_for.client, wakeup(waited_for)) == (Away(NOW), NOW + 10.0)
    gone, (end, *_) = step(replace(RECORDS["decoding"], terms=Terms(linger=0.0)), LEFT, NOW)
    assert (gone.client, end) == (Gone(), do.End(LEFT.error or FinishReason.STOP))


def test_a_client_whose_time_is_up_is_not_waited_for() -> None:
    late = ev.ClientLeft(DeadlineExceeded("the deadline passed"))
    gone, (end, *_) = step(RECORDS["decoding"], late, NOW)
    assert (gone.client, end) == (Gone(), do.End(late.error or FinishReason.STOP))


def test_repeated_tokens_alone_are_not_the_first_token_of_an_attempt() -> None:
    record = RECORDS["encoding again"]
    epoch = record.key.epoch
    for event in (ENCODED[0], ENCODED[1]):
        record, _ = step(record, replace(event, epoch=epoch), NOW)
    record, _ = step(record, ev.BlocksReserved("D", epoch), NOW)
    assert step(record, tokens("P", epoch, 0, 7), NOW) == (record, ())
    after, actions = step(record, tokens("P", epoch, 0, 7, 8), NOW)
    assert actions == (do.Deliver((GeneratedToken(8),)), do.SendDecode("D", epoch, 2))
    assert isinstance(after.state, st.Transferring)


@pytest.mark.parametrize(
    ("name", "worker"), [("reserving", "D"), ("prefilling", "P"), ("prefilling, colocated", "D")]
)
def test_an_answer_for_which_a_worker_has_no_room_is_complete(name: str, worker: str) -> None:
    before = replace(RECORDS[name], emitted=5)
    after, actions = step(before, tokens(worker, EPOCH, 5, end=FinishReason.LENGTH), NOW)
    assert after.state == st.Finished(FinishReason.LENGTH)
    assert do.End(FinishReason.LENGTH) in actions
    assert {a.worker_id for a in actions if isinstance(a, do.SendFree)} == set(HELD[name].split())
    assert step(before, tokens(worker, EPOCH, 5), NOW) == (before, ())
