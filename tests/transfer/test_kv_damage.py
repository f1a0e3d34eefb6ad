from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from triptych.core.errors import DataLoss, Unavailable
from triptych.core.leases.reservation import Open
from triptych.transfer import PoolGeometry, TransferBackend
from triptych.transfer.frames import Chunk, Frame

GEOMETRY = PoolGeometry(layers=3, blocks=24, page_bytes=520)


def _flip(times: int, rng: np.random.Generator) -> tuple[Callable[[Frame, bytearray], None], list[int]]:
    flipped: list[int] = []

    def hook(frame: Frame, payload: bytearray) -> None:
        if isinstance(frame, Chunk) and len(flipped) < times:
            flipped.append(int(rng.integers(len(payload))))
            payload[flipped[-1]] ^= 1 << int(rng.integers(8))

    return hook, flipped


@pytest.mark.parametrize("times", [1, 2])
def test_a_flipped_bit_on_the_wire_is_sent_again(bench: Any, rng: np.random.Generator, times: int) -> None:
    decoder, pool = bench.decoder(TransferBackend.TCP), bench.pool()
    hook, flipped = _flip(times, rng)
    sender = bench.sender(pool)
    decoder.receiver.open("t", "request", 0, [4, 5, 9], 3)
    sender.send(bench.proxy(decoder.endpoint, hook), "t", 0, [1, 2, 3], True).result(60)
    assert len(flipped) == times
    assert decoder.completed.get_nowait()[:2] == ("t", 3 * GEOMETRY.block_bytes)
    assert (decoder.pages([4, 5, 9]) == pool.array.reshape(3, 24, 520)[:, [1, 2, 3]]).all()
    assert (sender.counts.mismatches, decoder.receiver.counts.mismatches) == (times, times)
    assert (sender.counts.chunks, decoder.receiver.counts.chunks) == (1, 1)


def test_damage_that_stays_is_data_loss_on_both_sides(bench: Any, rng: np.random.Generator) -> None:
    decoder = bench.decoder(TransferBackend.TCP)
    hook, flipped = _flip(99, rng)
    sender, endpoint = bench.sender(bench.pool()), bench.proxy(decoder.endpoint, hook)
    decoder.receiver.open("t", "request", 0, [4, 5, 9], 3)
    futures = [sender.send(endpoint, "t", first, [first], first == 2) for first in range(3)]
    for future in futures:
        with pytest.raises(DataLoss):
            future.result(60)
    assert len(flipped) == 3
    ticket_id, error = decoder.failed.get(timeout=60)
    assert ticket_id == "t"
    assert isinstance(error, DataLoss)
    assert decoder.receiver.state("t") is None
    assert decoder.completed.empty()
    assert decoder.failed.empty()
    # The connection and the receiver go on.
    decoder.receiver.open("u", "request", 1, [4], 1)
    flipped.extend(range(99))
    sender.send(endpoint, "u", 0, [7], True).result(60)
    assert decoder.completed.get_nowait()[0] == "u"


def test_pages_that_change_after_their_checksum_are_never_accepted(bench: Any) -> None:
    decoder, pool = bench.decoder(TransferBackend.SHARED_MEMORY), bench.pool()

    def reuse_the_block(frame: Frame, payload: bytearray) -> None:
        if isinstance(frame, Chunk):
            pool.array.reshape(3, 24, 520)[2, 6, 519] ^= 0xFF
            pool.array.reshape(3, 24, 520)[0, 5, 0] += 1

    sender = bench.sender(pool)
    decoder.receiver.open("t", "request", 0, [1, 2], 2)
    future = sender.send(bench.proxy(decoder.endpoint, reuse_the_block), "t", 0, [5, 6], True)
    with pytest.raises(DataLoss):
        future.result(60)
    assert sender.counts.mismatches == 2
    assert decoder.completed.empty()
    with pytest.raises(Unavailable, match="unknown or closed"):
        sender.send(decoder.endpoint, "t", 0, [5, 6], True).result(60)


def test_damage_is_counted_per_chunk(bench: Any) -> None:
    """Two bad tries of each chunk are within the bound, however many chunks there are."""
    decoder = bench.decoder(TransferBackend.TCP)
    tries: dict[int, int] = {}

    def hook(frame: Frame, payload: bytearray) -> None:
        if isinstance(frame, Chunk):
            tries[frame.first] = tries.get(frame.first, 0) + 1
            payload[0] ^= tries[frame.first] <= 2

    sender, endpoint = bench.sender(bench.pool()), bench.proxy(decoder.endpoint, hook)
    decoder.receiver.open("t", "request", 0, [4, 5, 9], 3)
    for first in range(3):
        sender.send(endpoint, "t", first, [first], first == 2).result(60)
    assert tries == {0: 3, 1: 3, 2: 3}
    assert decoder.completed.get_nowait()[0] == "t"


def test_a_damaged_chunk_leaves_the_reservation_open(bench: Any, rng: np.random.Generator) -> None:
    decoder = bench.decoder(TransferBackend.TCP)
    hook, _ = _flip(1, rng)
    decoder.receiver.open("t", "request", 0, [4, 5], 2)
    bench.sender(bench.pool()).send(bench.proxy(decoder.endpoint, hook), "t", 0, [1], False).result(60)
    state = decoder.receiver.state("t")
    assert isinstance(state, Open)
    assert (state.received, state.mismatches) == (1, 0)
