"""Every rank sends the heads that it has to the ranks that need them; the content of all pools is known."""

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from triptych.core.errors import DataLoss, InvalidArgument, Unavailable
from triptych.core.leases import MAX_MISMATCHES, Closing, Complete
from triptych.transfer import (
    Endpoint,
    HeadMove,
    Heads,
    KvSender,
    PoolGeometry,
    SendResult,
    SharedSegment,
    TransferBackend,
    head_plan,
)
from triptych.transfer.frames import Chunk, Frame
from triptych.transfer.pages import Pages
from triptych.transfer.runs import Run, RunPair
from triptych.transfer.segment import Bytes

LAYERS, BLOCKS, HEAD_BYTES = 3, 16, 40
ONE = Heads(0, 1)
SHAPES = {
    "1 to 2": ([Heads(0, 4)], [Heads(0, 2), Heads(2, 2)]),
    "2 to 1": ([Heads(0, 2), Heads(2, 2)], [Heads(0, 4)]),
    "2 to 4": ([Heads(0, 2), Heads(2, 2)], [Heads(h, 1) for h in range(4)]),
    "4 to 2": ([Heads(h, 1) for h in range(4)], [Heads(0, 2), Heads(2, 2)]),
    "3 to 2": ([Heads(0, 2), Heads(2, 2), Heads(4, 2)], [Heads(0, 3), Heads(3, 3)]),
    "2 to 2, uneven": ([Heads(0, 2), Heads(2, 1)], [Heads(0, 2), Heads(2, 1)]),
    "replicated senders": ([ONE, ONE, Heads(1, 1), Heads(2, 1)], [Heads(0, 2), Heads(2, 1)]),
    "replicated receivers": ([Heads(0, 2), Heads(2, 1)], [ONE, ONE, Heads(1, 1), Heads(2, 1)]),
}
LATENT = {"1 to 2": ([ONE], [ONE] * 2), "4 to 2": ([ONE] * 4, [ONE] * 2), "2 to 4": ([ONE] * 2, [ONE] * 4)}
CASES = [pytest.param(2, *heads, id=name) for name, heads in SHAPES.items()]
CASES += [pytest.param(1, *heads, id=f"latent {name}") for name, heads in LATENT.items()]


def geometry_of(heads: Heads, sides: int, blocks: int = BLOCKS) -> PoolGeometry:
    return PoolGeometry(LAYERS, blocks, sides * heads.count * HEAD_BYTES, heads, sides)


def heads_of(pool: Bytes, geometry: PoolGeometry) -> Bytes:
    return pool.reshape(LAYERS, geometry.blocks, geometry.sides, geometry.heads.count, HEAD_BYTES)


@dataclass
class Ranks:
    """The ranks of a sending and of a receiving replica, and what the model has kept at the sending one."""

    kept: Bytes
    senders: list[KvSender]
    decoders: list[Any]
    held: list[Heads]
    needed: list[Heads]

    def send(self, ticket_id: str, first: int, blocks: list[int], last: bool) -> "list[Future[SendResult]]":
        return [
            self.senders[move.sender].send(
                self.decoders[move.receiver].endpoint, ticket_id, first, blocks, last, move.heads
            )
            for move in head_plan(self.held, self.needed)
        ]

    def open(self, ticket_id: str, blocks: list[int]) -> None:
        for decoder in self.decoders:
            decoder.receiver.open(ticket_id, "request", 0, blocks, len(blocks))

    def arrived(self, rank: int, sides: int, source: list[int], target: list[int]) -> bool:
        heads = self.needed[rank]
        got = heads_of(self.decoders[rank].pool.array, geometry_of(heads, sides))[:, target]
        return bool((got == self.kept[:, source][:, :, :, heads.first : heads.end]).all())


@pytest.fixture
def ranks_of(bench: Any, backend: TransferBackend, rng: np.random.Generator) -> Callable[..., Ranks]:
    def make(sides: int, held: list[Heads], needed: list[Heads]) -> Ranks:
        count = max(heads.end for heads in held)
        kept = rng.integers(0, 256, (LAYERS, BLOCKS, sides, count, HEAD_BYTES), dtype=np.uint8)
        senders = []
        for heads in held:
            geometry = geometry_of(heads, sides)
            pool: SharedSegment = bench.pool(geometry)
            heads_of(pool.array, geometry)[:] = kept[:, :, :, heads.first : heads.end]
            senders.append(bench.sender(pool, geometry=geometry))
        decoders = [bench.decoder(backend, geometry_of(heads, sides)) for heads in needed]
        return Ranks(kept, senders, decoders, held, needed)

    return make


@pytest.mark.parametrize(("sides", "held", "needed"), CASES)
def test_each_rank_gets_its_heads_of_every_block(
    ranks_of: Callable[..., Ranks], sides: int, held: list[Heads], needed: list[Heads], rng: np.random.Generator
) -> None:
    ranks = ranks_of(sides, held, needed)
    source = [int(block) for block in rng.permutation(BLOCKS)[:9]]
    target = [*range(3, 8), *(int(block) for block in 8 + rng.permutation(8)[:4])]
    before = [decoder.pool.array.copy() for decoder in ranks.decoders]
    ranks.open("t", target)
    futures = ranks.send("t", 0, source[:4], False) + ranks.send("t", 4, source[4:], True)
    moved = sum(future.result(60).bytes for future in futures)
    assert moved == sum(sender.counts.bytes for sender in ranks.senders)
    assert moved == 9 * LAYERS * sides * HEAD_BYTES * sum(heads.count for heads in needed)
    others = [block for block in range(BLOCKS) if block not in target]
    for rank, decoder in enumerate(ranks.decoders):
        geometry = geometry_of(needed[rank], sides)
        assert decoder.completed.get(timeout=60)[:2] == ("t", 9 * geometry.block_bytes)
        assert decoder.completed.empty()
        assert isinstance(decoder.receiver.state("t"), Complete)
        assert ranks.arrived(rank, sides, source, target)
        kept, now = heads_of(before[rank], geometry), heads_of(decoder.pool.array, geometry)
        assert (kept[:, others] == now[:, others]).all()


@pytest.mark.parametrize(("sides", "held", "needed"), [CASES[1], CASES[3]])
def test_a_ticket_is_complete_when_its_slowest_sender_is_done(
    ranks_of: Callable[..., Ranks], sides: int, held: list[Heads], needed: list[Heads]
) -> None:
    ranks = ranks_of(sides, held, needed)
    ranks.open("t", [0, 1, 2])
    ahead, *behind = [move for move in head_plan(held, needed) if move.receiver == 0]
    decoder = ranks.decoders[0]

    def send(move: HeadMove, first: int, last: bool) -> "Future[SendResult]":
        blocks = [first, first + 1][: 3 - first]
        endpoint: Endpoint = decoder.endpoint
        return ranks.senders[move.sender].send(endpoint, "t", first, blocks, last, move.heads)

    send(ahead, 0, False).result(60)
    send(ahead, 2, True).result(60)
    assert decoder.completed.empty()
    for move in behind:
        send(move, 0, False).result(60)
        send(move, 2, True).result(60)
    assert decoder.completed.get(timeout=60)[0] == "t"
    assert ranks.arrived(0, sides, [0, 1, 2], [0, 1, 2])
    send(ahead, 2, True).result(60)  # once more, and it is acknowledged once more
    assert decoder.completed.empty()


def test_a_damaged_slice_is_sent_again_and_ends_the_ticket_at_last(
    bench: Any, backend: TransferBackend, rng: np.random.Generator
) -> None:
    geometry, tries = geometry_of(Heads(0, 4), 2), list[Heads]()
    target = bench.decoder(TransferBackend.TCP, geometry_of(Heads(2, 2), 2))

    def damage(frame: Frame, payload: bytearray) -> None:
        if isinstance(frame, Chunk) and frame.ticket_id in ("damaged", *["t"] * (len(tries) < MAX_MISMATCHES)):
            tries.append(frame.heads)
            payload[5] ^= 1

    endpoint = bench.proxy(target.endpoint, damage)
    sender = bench.sender(bench.pool(geometry), geometry=geometry)
    target.receiver.open("t", "request", 0, [1, 2], 2)
    sender.send(endpoint, "t", 0, [4, 9], True, Heads(2, 2)).result(60)
    assert tries == [Heads(2, 2)] * MAX_MISMATCHES
    assert target.completed.get(timeout=60)[0] == "t"
    target.receiver.open("damaged", "request", 0, [3, 4], 2)
    with pytest.raises(DataLoss):
        sender.send(endpoint, "damaged", 0, [4, 9], True, Heads(2, 2)).result(60)
    assert isinstance(target.failed.get(timeout=60)[1], DataLoss)
    assert target.receiver.state("damaged") is None


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator["Held"]:
    held = Held(monkeypatch)
    yield held
    held.go_on.set()


class Held:
    """Copies wait until they may go on; those of heads 2 and 3 are damaged as long as `damaging`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: queue.Queue[Heads] = queue.Queue()
        self.waiting: set[Heads] = set()
        self.go_on = threading.Event()
        self.damaging = False
        copy = Pages.copy_from

        def held(target: Pages, source: Pages, pair: RunPair, heads: Heads) -> None:
            self.begun.put(heads)
            assert heads not in self.waiting or self.go_on.wait(60)
            copy(target, source, pair, heads)
            if self.damaging and heads == Heads(2, 2):
                target.pieces((Run(pair.target, 1),), heads)[0][0] ^= 1

        monkeypatch.setattr(Pages, "copy_from", held)


def test_a_ticket_is_lost_only_when_no_sender_writes_it_any_more(
    bench: Any, held: Held, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    geometry = geometry_of(Heads(0, 4), 2)
    decoder = bench.decoder(TransferBackend.SHARED_MEMORY, geometry)
    decoder.receiver.open("t", "request", 0, [1], 1)
    held.waiting, held.damaging = {Heads(0, 2)}, True
    slow, damaged = (bench.sender(bench.pool(geometry), geometry=geometry) for _ in range(2))
    stalled = slow.send(decoder.endpoint, "t", 0, [4], True, Heads(0, 2))
    assert held.begun.get(timeout=60) == Heads(0, 2)
    failed = damaged.send(decoder.endpoint, "t", 0, [4], True, Heads(2, 2))
    eventually(lambda: isinstance(decoder.receiver.state("t"), Closing))
    assert decoder.failed.empty()
    held.go_on.set()
    assert isinstance(decoder.failed.get(timeout=60)[1], DataLoss)
    assert decoder.receiver.state("t") is None
    for future in (stalled, failed):
        assert isinstance(future.exception(60), DataLoss | Unavailable)


def test_a_sender_that_comes_again_cuts_its_old_connection_and_no_other(bench: Any, held: Held) -> None:
    geometry = geometry_of(Heads(0, 4), 2)
    decoder = bench.decoder(TransferBackend.SHARED_MEMORY, geometry)
    decoder.receiver.open("t", "request", 0, [1], 1)
    held.waiting = {Heads(0, 2), Heads(2, 2)}
    pool = bench.pool(geometry)
    old, new, other = (bench.sender(pool, geometry=geometry) for _ in range(3))
    arrived = other.send(decoder.endpoint, "t", 0, [4], True, Heads(2, 2))
    cut = old.send(decoder.endpoint, "t", 0, [4], True, Heads(0, 2))
    assert {held.begun.get(timeout=60) for _ in range(2)} == held.waiting
    again = new.send(decoder.endpoint, "t", 0, [4], True, Heads(0, 2))
    while not old.counts.reconnects:  # its connection is cut when the fence is over
        assert not again.done()
    held.go_on.set()
    for future in (arrived, cut, again):
        assert future.result(60).blocks == 1
    assert (other.counts.reconnects, new.counts.reconnects) == (0, 0)
    assert decoder.completed.get(timeout=60)[0] == "t"


def test_closing_ends_what_all_senders_have_begun(ranks_of: Callable[..., Ranks]) -> None:
    held, needed = SHAPES["2 to 1"]
    ranks = ranks_of(2, held, needed)
    ranks.open("t", [0, 1])
    ranks.senders[0].send(ranks.decoders[0].endpoint, "t", 0, [0], False).result(60)
    ranks.decoders[0].receiver.close("t")
    assert ranks.decoders[0].receiver.state("t") is None
    for future in ranks.send("t", 1, [1], True):
        with pytest.raises(Unavailable, match="unknown or closed"):
            future.result(60)
    ranks.open("u", [0, 1])


def test_heads_that_have_not_come_equally_far_do_not_go_on_together(ranks_of: Callable[..., Ranks]) -> None:
    ranks = ranks_of(2, [Heads(0, 4)], [Heads(0, 4)])
    sender, decoder = ranks.senders[0], ranks.decoders[0]
    ranks.open("t", [0, 1])
    sender.send(decoder.endpoint, "t", 0, [0], False, Heads(0, 2)).result(60)
    with pytest.raises(Unavailable, match="has part of block 0 already"):
        sender.send(decoder.endpoint, "t", 0, [0], False, Heads(1, 2)).result(60)
    sender.send(decoder.endpoint, "t", 0, [0], False, Heads(2, 2)).result(60)
    sender.send(decoder.endpoint, "t", 1, [1], True).result(60)
    assert decoder.completed.get(timeout=60)[0] == "t"


def test_ranks_of_different_models_are_told_apart(bench: Any, backend: TransferBackend) -> None:
    decoder = bench.decoder(backend, geometry_of(Heads(0, 2), 2))
    for geometry in (geometry_of(Heads(0, 4), 1), PoolGeometry(LAYERS, BLOCKS, 2 * 4 * 41, Heads(0, 4), 2)):
        sender = bench.sender(bench.pool(geometry), geometry=geometry)
        with pytest.raises(
            InvalidArgument, match=r"the receiver's pool has 3 layers of 160 byte pages \(2 x 2 heads"
        ):
            sender.send(decoder.endpoint, "t", 0, [1], True, Heads(0, 2)).result(60)


def test_only_heads_that_both_ranks_hold_can_be_sent(bench: Any, backend: TransferBackend) -> None:
    decoder, geometry = bench.decoder(backend, geometry_of(Heads(2, 2), 2)), geometry_of(Heads(0, 3), 2)
    decoder.receiver.open("t", "request", 0, [1], 1)
    sender = bench.sender(bench.pool(geometry), geometry=geometry)
    with pytest.raises(InvalidArgument, match="the pool holds KV heads 0 to 2, not 2 to 3"):
        sender.send(decoder.endpoint, "t", 0, [1], True, Heads(2, 2)).result(60)
    with pytest.raises(Unavailable, match="a chunk brings KV heads 0 to 2, the receiver's pool holds 2 to 3"):
        sender.send(decoder.endpoint, "t", 0, [1], True).result(60)


def test_a_page_divides_into_heads() -> None:
    with pytest.raises(InvalidArgument, match="100 bytes of a page are not 2 x 3 heads alike"):
        PoolGeometry(1, 1, 100, Heads(0, 3), 2)
