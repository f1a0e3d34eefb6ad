"""Whatever goes wrong on one rank ends the ticket on all of them, once; and nothing is held afterwards."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from triptych.core.errors import DataLoss, FailedPrecondition, Unavailable
from triptych.core.generation import OperationKey
from triptych.core.jobs.events import ChunkAcknowledged, ChunkFailed, Fenced, KvComplete, KvFailed
from triptych.core.leases import MAX_MISMATCHES, Closing
from triptych.parallel import RankLost
from triptych.stages.ranks.messages import Arrived, CloseLease, Done, Lapsed, OpenLease, Order, StopSending
from triptych.transfer import Heads, TransferBackend
from triptych.transfer.pages import Pages
from triptych.transfer.source import SharedSource, StreamSource

P, D = OperationKey("prefill", 0), OperationKey("decode", 0)
HALVES = [Heads(0, 2), Heads(2, 2)]


@pytest.fixture
def pair(replica: Callable[..., Any], rng: np.random.Generator) -> tuple[Any, Any]:
    """Two ranks that prefill and two that decode."""
    return filled(replica(HALVES), rng), replica(HALVES)


def filled(prefill: Any, rng: np.random.Generator) -> Any:
    prefill.fill(rng.integers(0, 256, (1, 3, 12, 2, 4, 40), dtype=np.uint8))
    return prefill


def released(decode: Any, ticket_id: str, blocks: list[int]) -> bool:
    """Whether nothing is left of a ticket, so that its blocks can be given out again."""
    decode.movers.stop_receiving(D, ticket_id)
    assert decode.hear() == Fenced(D)
    assert decode.posted.empty()
    free: bool = decode.states(ticket_id) == [None] * len(decode.ranks)
    decode.ticket(f"{ticket_id} again", blocks)
    return free


class Held:
    """Copies into the pools that hold some heads: each says that it has begun, and waits to be let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.heads = HALVES[1]
        copy = Pages.copy_from

        def held(pages: Pages, source: Pages, pair: Any, heads: Heads) -> None:
            if pages.geometry.heads == self.heads:
                self.begun.set()
                assert self.go_on.wait(60)
            copy(pages, source, pair, heads)

        monkeypatch.setattr(Pages, "copy_from", held)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    held = Held(monkeypatch)
    yield held
    held.go_on.set()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within a minute"
        time.sleep(0.002)


def damage(monkeypatch: pytest.MonkeyPatch, source: Any, times: int) -> None:
    """Flips one bit of what the second rank gets, so many times."""
    write, done = source.write_into, list[int]()

    def damaging(self: Any, target: Pages, blocks: Any, runs: Any, heads: Heads) -> Any:
        counts = write(self, target, blocks, runs, heads)
        if target.geometry.heads == Heads(2, 2) and len(done) < times:
            done.append(1)
            target.pieces(runs, heads)[0][3] ^= 0x40
        return counts

    monkeypatch.setattr(source, "write_into", damaging)


@pytest.mark.parametrize(
    ("backend", "source"), [(TransferBackend.SHARED_MEMORY, SharedSource), (TransferBackend.TCP, StreamSource)]
)
@pytest.mark.parametrize("senders", [HALVES, [Heads(0, 4)]], ids=["2 to 2", "1 to 2"])
def test_what_one_rank_gets_damaged_is_sent_again_and_fails_the_ticket_at_last(
    replica: Callable[..., Any],
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
    backend: TransferBackend,
    source: type,
    senders: list[Heads],
) -> None:
    prefill, decode = filled(replica(senders, backend=backend), rng), replica(HALVES, backend=backend)
    with monkeypatch.context() as some:
        damage(some, source, MAX_MISMATCHES)
        prefill.movers.push(P, decode.ticket("t", [1, 2]), 0, [5, 7], last=True)
        assert prefill.hear() == ChunkAcknowledged(P)
        assert isinstance(decode.hear(), KvComplete)
        assert [rank.kv.receiver.counts.mismatches for rank in decode.ranks] == [0, MAX_MISMATCHES]
    damage(monkeypatch, source, 10**9)
    prefill.movers.push(P, decode.ticket("u", [3, 4, 5]), 0, [5, 7], last=False)
    failed, lapsed = prefill.hear(), decode.hear()
    assert isinstance(failed, ChunkFailed)
    assert isinstance(failed.error, DataLoss)
    assert (type(lapsed), lapsed.ticket_id, type(lapsed.error)) == (KvFailed, "u", DataLoss)
    assert decode.states("u") == [None, None]
    assert released(decode, "u", [3, 4, 5])
    assert prefill.posted.empty()


def test_a_ticket_of_a_rank_that_is_lost_fails_with_the_reason(pair: tuple[Any, Any]) -> None:
    prefill, decode = pair
    ticket = decode.ticket("t", [1, 2])
    prefill.movers.push(P, ticket, 0, [5], last=False)
    assert prefill.hear() == ChunkAcknowledged(P)
    decode.members[0].close()
    failed = decode.hear()
    assert (type(failed), failed.ticket_id, type(failed.error)) == (KvFailed, "t", RankLost)
    assert "rank 1" in failed.error.message
    assert decode.ranks[0].kv.receiver.state("t") is None
    decode.movers.stop_receiving(D, "t")
    assert decode.hear() == Fenced(D)
    with pytest.raises(RankLost):
        decode.ticket("u", [3])
    decode.movers.stop_receiving(D, "u")
    assert decode.hear() == Fenced(D)
    assert decode.posted.empty()


def test_a_push_by_a_rank_that_is_lost_fails_once(pair: tuple[Any, Any], held: Held) -> None:
    prefill, decode = pair
    ticket = decode.ticket("t", [1, 2])
    prefill.movers.push(P, ticket, 0, [5, 7], last=True)
    assert held.begun.wait(60)
    prefill.members[0].close()
    failed = prefill.hear()
    assert (type(failed), type(failed.error)) == (ChunkFailed, RankLost)
    prefill.movers.push(P, ticket, 0, [5, 7], last=True)
    assert isinstance(prefill.hear(), ChunkFailed)
    prefill.movers.stop_sending(P, "t")
    assert prefill.hear() == Fenced(P)
    assert prefill.posted.empty()


def test_stop_receiving_waits_for_the_copy_of_every_rank(pair: tuple[Any, Any], held: Held) -> None:
    prefill, decode = pair
    prefill.movers.push(P, decode.ticket("t", [1, 2]), 0, [5, 7], last=True)
    assert held.begun.wait(60)
    decode.movers.stop_receiving(D, "t")
    eventually(lambda: isinstance(decode.states("t")[1], Closing))
    assert decode.posted.empty()
    held.go_on.set()
    assert decode.hear() == Fenced(D)
    assert decode.states("t") == [None, None]
    failed = prefill.hear()
    assert (type(failed), type(failed.error)) == (ChunkFailed, Unavailable)
    assert released(decode, "t", [1, 2])


@pytest.mark.parametrize("rank", [0, 1])
def test_stop_sending_ends_the_chunks_of_every_rank(pair: tuple[Any, Any], held: Held, rank: int) -> None:
    prefill, decode = pair
    held.heads = HALVES[rank]
    ticket = decode.ticket("t", [1, 2, 3])
    prefill.movers.push(P, ticket, 0, [5, 7], last=False)
    prefill.movers.push(P, ticket, 2, [0], last=True)
    assert held.begun.wait(60)
    prefill.movers.stop_sending(P, "t")
    answers = [prefill.hear()]  # the second chunk is dropped, the first may still arrive
    held.go_on.set()
    answers += [prefill.hear(), prefill.hear()]
    assert sum(isinstance(answer, Fenced) for answer in answers) == 1
    assert sum(isinstance(answer, ChunkFailed) for answer in answers) >= 1
    assert prefill.posted.empty()
    assert released(decode, "t", [1, 2, 3])


def test_a_lease_that_ends_on_one_rank_ends_on_all(replica: Callable[..., Any]) -> None:
    decode = replica(HALVES, lease_s=0.05)
    decode.ticket("t", [1, 2])
    failed = decode.hear()
    assert (type(failed), failed.ticket_id, type(failed.error)) == (KvFailed, "t", Unavailable)
    eventually(lambda: decode.states("t") == [None, None])  # one may have ended before the other was opened
    decode.movers.stop_receiving(D, "t")
    assert decode.hear() == Fenced(D)
    assert decode.posted.empty()


def test_a_heartbeat_renews_the_lease_on_every_rank(pair: tuple[Any, Any]) -> None:
    _, decode = pair
    decode.ticket("t", [1, 2])
    before = [state.expires_at for state in decode.states("t")]
    decode.movers.renew("another router")
    decode.movers.renew("router")
    eventually(lambda: all(s.expires_at > b for s, b in zip(decode.states("t"), before, strict=True)))


def test_a_heartbeat_does_not_wait_for_tickets_whose_peers_stall(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, decode = pair
    stalled, let_go = threading.Semaphore(0), threading.Event()

    def stall(ticket_id: str) -> None:
        stalled.release()
        assert let_go.wait(60)

    for i in range(6):
        decode.ticket(f"stalled {i}", [i])
    decode.ticket("t", [7, 8])
    monkeypatch.setattr(decode.ranks[0].kv.receiver, "close", stall)
    for i in range(6):
        decode.kv.heard(1, Lapsed(f"stalled {i}", Unavailable("its router is gone")))
    assert all(stalled.acquire(timeout=60) for _ in range(4))
    before = [state.expires_at for state in decode.states("t")]
    decode.movers.renew("router")
    eventually(lambda: all(s.expires_at > b for s, b in zip(decode.states("t"), before, strict=True)))
    let_go.set()
    assert {decode.hear().ticket_id for _ in range(6)} == {f"stalled {i}" for i in range(6)}


def test_what_fails_after_the_end_keeps_nobody_from_reading(pair: tuple[Any, Any]) -> None:
    _, decode = pair
    decode.ticket("t", [1, 2])
    decode.movers.close()
    decode.members[0].send(Lapsed("t", Unavailable("its router is gone")))
    decode.remote[0].ask(StopSending("t")).result(timeout=60)
    assert decode.posted.empty()


def test_nobody_waits_for_an_answer_of_a_group_that_was_closed(pair: tuple[Any, Any], held: Held) -> None:
    prefill, decode = pair
    prefill.movers.push(P, decode.ticket("t", [1, 2]), 0, [5, 7], last=True)
    assert held.begun.wait(60)
    asked = decode.remote[0].ask(CloseLease("t"))
    prefill.hub.close()
    failed = prefill.hear()
    assert (type(failed), type(failed.error)) == (ChunkFailed, RankLost)
    decode.hub.close()
    asked.result(timeout=60)


def test_a_ticket_that_one_rank_cannot_open_is_not_given_out(pair: tuple[Any, Any]) -> None:
    _, decode = pair
    decode.ranks[1].kv.open(OpenLease("other", "request", 0, (2,), "router"))
    with pytest.raises(FailedPrecondition, match="block 2 is reserved by another ticket"):
        decode.ticket("t", [1, 2])
    decode.ranks[1].kv.receiver.close("other")
    assert released(decode, "t", [1, 2])


def test_what_comes_twice_counts_once(pair: tuple[Any, Any]) -> None:
    _, decode = pair
    decode.ticket("t", [1, 2])
    decode.served[0].handle(Order(0, OpenLease("u", "request", 0, (3,), "router")))
    assert decode.states("u") == [None, None]
    decode.remote[0].heard(Done(0))
    for rank in (0, 0, 1, 1):
        decode.kv.heard(rank, Arrived("t", 10, 1.0))
    assert decode.hear() == KvComplete("t", 20, 1.0)
    decode.kv.heard(1, Arrived("unknown", 10, 1.0))
    decode.movers.close_lease("t")
    decode.movers.close_lease("t")
    assert released(decode, "t", [1, 2])
