import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from triptych.core.errors import FailedPrecondition, InvalidArgument
from triptych.core.leases.reservation import Complete
from triptych.transfer import (
    Endpoint,
    PoolGeometry,
    SharedSegment,
    TransferBackend,
    TransferCounts,
)

GEOMETRY = PoolGeometry(layers=3, blocks=24, page_bytes=520)
BLOCK_BYTES = GEOMETRY.block_bytes
needs_memfd = pytest.mark.skipif(not SharedSegment.available(), reason="no memfd here")


def _pages(pool: Any, block_ids: list[int]) -> Any:
    return pool.array.reshape(GEOMETRY.layers, GEOMETRY.blocks, GEOMETRY.page_bytes)[:, block_ids]


def test_a_prompt_arrives_in_chunks_of_any_size(
    bench: Any, backend: TransferBackend, rng: np.random.Generator
) -> None:
    decoder, pool = bench.decoder(backend), bench.pool()
    sender = bench.sender(pool)
    untouched = decoder.pool.array.copy()
    source = [int(block) for block in rng.permutation(GEOMETRY.blocks)[:11]]
    target = [int(block) for block in rng.permutation(GEOMETRY.blocks)[:14]]
    decoder.receiver.open("t", "request", 2, target, 11)
    bounds = [0, 4, 8, 11]  # the last chunk is a short one
    futures = [
        sender.send(decoder.endpoint, "t", start, source[start:end], end == 11)
        for start, end in itertools.pairwise(bounds)
    ]
    results = [future.result(60) for future in futures]
    assert [(r.ticket_id, r.blocks, r.bytes, r.backend) for r in results] == [
        ("t", end - start, (end - start) * BLOCK_BYTES, backend) for start, end in itertools.pairwise(bounds)
    ]
    ticket_id, size, seconds = decoder.completed.get_nowait()
    assert (ticket_id, size) == ("t", 11 * BLOCK_BYTES)
    assert seconds > 0
    assert isinstance(decoder.receiver.state("t"), Complete)
    assert (decoder.pages(target[:11]) == _pages(pool, source)).all()
    others = [block for block in range(GEOMETRY.blocks) if block not in target[:11]]
    before = untouched.reshape(GEOMETRY.layers, GEOMETRY.blocks, GEOMETRY.page_bytes)
    assert (decoder.pages(others) == before[:, others]).all()


def test_both_backends_write_the_same_bytes(bench: Any) -> None:
    pool = bench.pool()
    decoders = [bench.decoder(backend) for backend in (TransferBackend.SHARED_MEMORY, TransferBackend.TCP)]
    sender = bench.sender(pool)
    for decoder in decoders:
        decoder.pool.array[:] = 0
        decoder.receiver.open("t", "request", 0, [9, 8, 2, 3, 4], 5)
        sender.send(decoder.endpoint, "t", 0, [0, 1, 2, 3, 7], True).result(60)
    assert (decoders[0].pool.array == decoders[1].pool.array).all()
    assert decoders[0].pool.array.any()


@pytest.mark.parametrize(
    ("source", "target", "pieces"),
    [
        (range(12), range(5, 17), 1),
        (range(12), [*range(6), *range(12, 18)], 2),
        ([*range(5), *range(10, 17)], [*range(8), *range(9, 13)], 3),
        (range(0, 24, 2), range(12), 12),
    ],
)
def test_shared_memory_copies_whole_runs(bench: Any, source: Any, target: Any, pieces: int) -> None:
    decoder, sender = bench.decoder(TransferBackend.SHARED_MEMORY), bench.sender(bench.pool())
    decoder.receiver.open("t", "request", 0, list(target), 12)
    sender.send(decoder.endpoint, "t", 0, list(source), True).result(60)
    assert decoder.receiver.counts == TransferCounts(chunks=1, bytes=12 * BLOCK_BYTES, copies=pieces)
    assert sender.counts == TransferCounts(chunks=1, bytes=12 * BLOCK_BYTES)


@pytest.mark.parametrize("source", [range(12), range(0, 24, 2)])
def test_tcp_moves_many_pieces_per_system_call(bench: Any, source: Any) -> None:
    decoder, sender = bench.decoder(TransferBackend.TCP), bench.sender(bench.pool())
    decoder.receiver.open("t", "request", 0, list(range(12)), 12)
    sender.send(decoder.endpoint, "t", 0, list(source), True).result(60)
    counts = TransferCounts(chunks=1, bytes=12 * BLOCK_BYTES, messages=1)
    assert (sender.counts, decoder.receiver.counts) == (counts, counts)


def test_tcp_splits_only_at_the_limit_of_the_system(bench: Any) -> None:
    geometry = PoolGeometry(layers=50, blocks=80, page_bytes=64)
    decoder, pool = bench.decoder(TransferBackend.TCP, geometry), bench.pool(geometry)
    sender = bench.sender(pool, geometry=geometry)
    scattered = list(range(0, 80, 2))
    decoder.receiver.open("t", "request", 0, scattered, 40)
    sender.send(decoder.endpoint, "t", 0, scattered, True).result(60)
    # 50 layers of 40 single blocks are 2000 pieces, 1024 to a call.
    assert (sender.counts.messages, decoder.receiver.counts.messages) == (2, 2)
    assert (decoder.pages(scattered, geometry) == pool.array.reshape(50, 80, 64)[:, scattered]).all()


def test_many_tickets_at_once_keep_their_order(bench: Any, backend: TransferBackend) -> None:
    decoder, pool = bench.decoder(backend), bench.pool()
    senders = [bench.sender(pool) for _ in range(3)]
    futures = []
    for number, sender in enumerate(senders):
        target = list(range(8 * number, 8 * number + 8))
        decoder.receiver.open(f"t{number}", "request", 0, target, 8)
        for position in range(8):
            last = position == 7
            futures.append(sender.send(decoder.endpoint, f"t{number}", position, [(position * 5) % 24], last))
    assert all(future.result(60).blocks == 1 for future in futures)
    assert {decoder.completed.get_nowait()[0] for _ in senders} == {"t0", "t1", "t2"}
    assert decoder.server.connections == 3
    for number in range(3):
        sources = [(position * 5) % 24 for position in range(8)]
        assert (decoder.pages(list(range(8 * number, 8 * number + 8))) == _pages(pool, sources)).all()


def test_a_pool_need_not_be_shared_to_use_tcp(bench: Any) -> None:
    decoder = bench.decoder()
    pool = np.full(GEOMETRY.size, 9, dtype=np.uint8)
    decoder.receiver.open("t", "request", 0, [1], 1)
    result = bench.sender(pool).send(decoder.endpoint, "t", 0, [2], True).result(60)
    assert result.backend is TransferBackend.TCP
    assert (decoder.pages([1]) == 9).all()


@needs_memfd
def test_one_host_picks_shared_memory(bench: Any) -> None:
    decoder = bench.decoder()
    decoder.receiver.open("t", "request", 0, [1], 1)
    result = bench.sender(bench.pool()).send(decoder.endpoint, "t", 0, [2], True).result(60)
    assert result.backend is TransferBackend.SHARED_MEMORY


@pytest.mark.parametrize("forced", ["receiver", "sender"])
def test_tcp_can_be_forced_by_either_side(bench: Any, forced: str) -> None:
    decoder = bench.decoder(TransferBackend.TCP if forced == "receiver" else TransferBackend.AUTO)
    sender = bench.sender(bench.pool(), TransferBackend.TCP if forced == "sender" else TransferBackend.AUTO)
    decoder.receiver.open("t", "request", 0, [1], 1)
    assert sender.send(decoder.endpoint, "t", 0, [2], True).result(60).backend is TransferBackend.TCP


def test_shared_memory_that_does_not_work_falls_back_with_one_line(
    bench: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def attach(ref: object) -> SharedSegment:
        raise FailedPrecondition("cannot attach: hidden by the system")

    monkeypatch.setattr(SharedSegment, "attach", attach)
    decoder, sender = bench.decoder(), bench.sender(bench.pool())
    decoder.receiver.open("t", "request", 0, [1, 2], 2)
    results = [sender.send(decoder.endpoint, "t", i, [i], i == 1).result(60) for i in range(2)]
    assert {result.backend for result in results} == {TransferBackend.TCP}
    assert [record.message for record in caplog.records] == [
        "shared memory does not work with a sender on this host, using TCP: cannot attach: hidden by the system"
    ]


def test_forced_shared_memory_never_becomes_tcp(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, tcp = TransferBackend.SHARED_MEMORY, TransferBackend.TCP
    sender = bench.sender(bench.pool(), shared)
    elsewhere = Endpoint("127.0.0.1:9", "another host")
    with pytest.raises(FailedPrecondition, match=r"127\.0\.0\.1:9 is on another host"):
        sender.send(elsewhere, "t", 0, [1], True).result(60)
    with pytest.raises(FailedPrecondition, match="one worker wants tcp, the other shared_memory"):
        sender.send(bench.decoder(tcp).endpoint, "t", 0, [1], True).result(60)
    with pytest.raises(FailedPrecondition, match="cannot share memory"):
        bench.sender(bytearray(GEOMETRY.size)).send(bench.decoder(shared).endpoint, "t", 0, [1], True).result(60)

    def attach(ref: object) -> SharedSegment:
        raise FailedPrecondition("cannot attach")

    monkeypatch.setattr(SharedSegment, "attach", attach)
    with pytest.raises(FailedPrecondition, match="cannot attach"):
        sender.send(bench.decoder().endpoint, "t", 0, [1], True).result(60)


def test_pools_must_have_the_same_pages(bench: Any) -> None:
    decoder = bench.decoder()
    for geometry in (PoolGeometry(4, 24, 520), PoolGeometry(3, 24, 512)):
        sender = bench.sender(bench.pool(geometry), geometry=geometry)
        with pytest.raises(InvalidArgument, match="the receiver's pool has 3 layers of 520 byte pages"):
            sender.send(decoder.endpoint, "t", 0, [1], True).result(60)


def test_pools_may_have_different_numbers_of_blocks(bench: Any, backend: TransferBackend) -> None:
    geometry = PoolGeometry(3, 100, 520)
    decoder, pool = bench.decoder(backend), bench.pool(geometry)
    decoder.receiver.open("t", "request", 0, [1, 23], 2)
    bench.sender(pool, geometry=geometry).send(decoder.endpoint, "t", 0, [99, 0], True).result(60)
    assert (decoder.pages([1, 23]) == pool.array.reshape(3, 100, 520)[:, [99, 0]]).all()


def test_the_pool_must_have_the_size_of_its_geometry(bench: Any) -> None:
    with pytest.raises(InvalidArgument, match="must have 37440 bytes, got 10"):
        bench.sender(bytearray(10))


@pytest.mark.parametrize("blocks", [[], [24], [-1]])
def test_only_blocks_of_the_pool_can_be_sent(bench: Any, blocks: list[int]) -> None:
    with pytest.raises(InvalidArgument):
        bench.sender(bench.pool()).send(Endpoint("127.0.0.1:9", ""), "t", 0, blocks, True).result(60)


def test_an_idle_sender_gives_its_connection_back(bench: Any, eventually: Callable[..., None]) -> None:
    decoder, sender = bench.decoder(), bench.sender(bench.pool(), idle_s=0.0)
    decoder.receiver.open("t", "request", 0, [1, 2], 2)
    sender.send(decoder.endpoint, "t", 0, [1], False).result(60)
    eventually(lambda: decoder.server.connections == 0)
    sender.send(decoder.endpoint, "t", 1, [2], True).result(60)
    assert decoder.completed.get_nowait()[0] == "t"
