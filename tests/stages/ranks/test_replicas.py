from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from triptych.core.errors import FailedPrecondition, Internal, InvalidArgument
from triptych.core.generation import OperationKey
from triptych.core.jobs.events import ChunkAcknowledged, ChunkFailed, Fenced, KvComplete
from triptych.stage.v1 import stage_pb2 as pb
from triptych.transfer import Heads, TransferBackend

LAYERS, BLOCKS, HEAD_BYTES = 3, 12, 40
P, D = OperationKey("prefill", 0), OperationKey("decode", 0)
ONE, HALVES, QUARTERS = [Heads(0, 4)], [Heads(0, 2), Heads(2, 2)], [Heads(h, 1) for h in range(4)]
# Three KV heads, as many ranks as make copies of some of them.
UNEVEN, COPIED = [Heads(0, 2), Heads(2, 1)], [Heads(0, 1), Heads(0, 1), Heads(1, 1), Heads(2, 1)]
LATENT = Heads(0, 1)
CASES = {
    "1 to 2": (2, ONE, HALVES),
    "2 to 1": (2, HALVES, ONE),
    "2 to 4": (2, HALVES, QUARTERS),
    "4 to 2": (2, QUARTERS, HALVES),
    "2 to 2": (2, HALVES, HALVES),
    "2 to 4 with copies": (2, UNEVEN, COPIED),
    "4 with copies to 2": (2, COPIED, UNEVEN),
    "latent 1 to 2": (1, [LATENT], [LATENT] * 2),
    "latent 4 to 2": (1, [LATENT] * 4, [LATENT] * 2),
}


def model(rng: np.random.Generator, heads: list[Heads], sides: int, lanes: int = 1) -> Any:
    total = max(held.end for held in heads)
    return rng.integers(0, 256, (lanes, LAYERS, BLOCKS, sides, total, HEAD_BYTES), dtype=np.uint8)


@pytest.mark.parametrize(("sides", "senders", "receivers"), CASES.values(), ids=CASES)
def test_the_kv_of_a_prompt_comes_whole_between_any_numbers_of_ranks(
    replica: Callable[..., Any],
    backend: TransferBackend,
    rng: np.random.Generator,
    sides: int,
    senders: list[Heads],
    receivers: list[Heads],
) -> None:
    kept = model(rng, senders, sides)
    prefill, decode = replica(senders, sides, backend=backend), replica(receivers, sides, backend=backend)
    prefill.fill(kept)
    source, target = [4, 5, 6, 1, 9, 0, 11], [2, 3, 7, 8, 9, 4, 0]
    ticket = decode.ticket("t", target)
    assert len(ticket.shares) == (len(receivers) if len(receivers) > 1 else 0)
    prefill.movers.push(P, ticket, 0, source[:3], last=False)
    assert prefill.hear() == ChunkAcknowledged(P)
    assert decode.posted.empty()
    prefill.movers.push(P, ticket, 3, source[3:], last=True)
    assert prefill.hear() == ChunkAcknowledged(P)
    size = 7 * LAYERS * sides * HEAD_BYTES * sum(heads.count for heads in receivers)
    complete = decode.hear()
    assert (type(complete), complete.ticket_id, complete.size) == (KvComplete, "t", size)
    assert sum(rank.kv.sender.counts.bytes for rank in prefill.ranks) == size
    for rank in decode.ranks:
        assert (rank.content[:, target] == kept[0][:, source, :, rank.heads.first : rank.heads.end]).all()
    decode.movers.close_lease("t")
    decode.movers.stop_receiving(D, "t")
    assert decode.hear() == Fenced(D)
    assert decode.states("t") == [None] * len(receivers)
    assert (prefill.posted.empty(), decode.posted.empty()) == (True, True)


def test_ranks_that_hold_the_same_take_turns_with_tickets(
    replica: Callable[..., Any], rng: np.random.Generator
) -> None:
    prefill, decode = replica([LATENT] * 2, 1), replica([LATENT], 1)
    prefill.fill(model(rng, [LATENT], 1))
    for number in range(12):
        prefill.movers.push(P, decode.ticket(f"t{number}", [number]), 0, [number], last=True)
        assert prefill.hear() == ChunkAcknowledged(P)
    assert {rank.kv.sender.counts.chunks for rank in prefill.ranks} & {0, 12} == set()


def test_only_the_ranks_of_the_blocks_lane_take_part(replica: Callable[..., Any], rng: np.random.Generator) -> None:
    prefill, decode = replica(HALVES, lanes=2), replica(ONE, lanes=3)
    kept = model(rng, ONE, 2, lanes=2)
    prefill.fill(kept)
    before = [rank.content.copy() for rank in decode.ranks]
    source, target = [3, 4, 8], [1, 0, 6]
    ticket = decode.ticket("t", [2 * BLOCKS + block for block in target])
    assert [share.endpoint.address for share in ticket.shares] == [decode.ranks[2].server.endpoint.address]
    prefill.movers.push(P, ticket, 0, [BLOCKS + block for block in source], last=True)
    assert prefill.hear() == ChunkAcknowledged(P)
    assert isinstance(decode.hear(), KvComplete)
    assert [rank.kv.sender.counts.chunks for rank in prefill.ranks] == [0, 0, 1, 1]
    assert [rank.kv.receiver.counts.chunks for rank in decode.ranks] == [0, 0, 2]
    assert (decode.ranks[2].content[:, target] == kept[1][:, source]).all()
    assert all((rank.content == old).all() for rank, old in zip(decode.ranks[:2], before[:2], strict=True))


def test_blocks_of_two_lanes_are_a_defect(replica: Callable[..., Any]) -> None:
    decode = replica(ONE, lanes=2)
    with pytest.raises(Internal, match=r"must lie in one lane, got lanes \[0, 1\]"):
        decode.ticket("t", [0, BLOCKS])


@pytest.mark.parametrize(
    ("first", "heads", "error"), [(4, 1, FailedPrecondition), (2, 3, FailedPrecondition), (0, 0, InvalidArgument)]
)
def test_a_ticket_for_another_model_is_refused(
    replica: Callable[..., Any], first: int, heads: int, error: type[Exception]
) -> None:
    prefill = replica(HALVES)
    share = pb.KvShare(endpoint=pb.DataEndpoint(address="127.0.0.1:9"), first_head=first, heads=heads)
    prefill.movers.push(P, pb.Ticket(ticket_id="t", shares=[share]), 0, [1], last=True)
    failed = prefill.hear()
    assert isinstance(failed, ChunkFailed)
    assert isinstance(failed.error, error)
    assert "head" in failed.error.message
