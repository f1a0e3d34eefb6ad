from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from triptych.core.errors import FailedPrecondition, Unavailable
from triptych.core.leases.reservation import Open, Receiving
from triptych.transfer import EmbeddingHandle, Endpoint, PoolGeometry, TransferBackend, TransferCounts, host_id, pull

GEOMETRY = PoolGeometry(layers=3, blocks=24, page_bytes=520)
SHAPE = [GEOMETRY.layers, GEOMETRY.blocks, GEOMETRY.page_bytes]


def _pool_of_peer(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, GEOMETRY.size, dtype=np.uint8).reshape(SHAPE)


def test_pages_move_between_processes(bench: Any, start_peer: Callable[..., Any], backend: TransferBackend) -> None:
    decoder = bench.decoder()
    decoder.receiver.open("t", "request", 0, [20, 21, 3, 9, 8], 5)
    peer = start_peer(
        "send",
        geometry=SHAPE,
        seed=11,
        address=decoder.endpoint.address,
        backend=backend,
        ticket="t",
        chunks=[[0, 1, 2], [7], [4]],
    )
    assert peer.hear() == [backend] * 3
    assert peer.finish() == 0
    assert decoder.completed.get_nowait()[:2] == ("t", 5 * GEOMETRY.block_bytes)
    assert (decoder.pages([20, 21, 3, 9, 8]) == _pool_of_peer(11)[:, [0, 1, 2, 7, 4]]).all()
    shared = backend is TransferBackend.SHARED_MEMORY
    expected = TransferCounts(copies=4) if shared else TransferCounts(messages=3)
    assert decoder.receiver.counts == expected + TransferCounts(chunks=3, bytes=5 * GEOMETRY.block_bytes)


def test_a_killed_sender_completes_nothing_and_hurts_nobody(
    bench: Any, start_peer: Callable[..., Any], eventually: Callable[..., None]
) -> None:
    decoder = bench.decoder()
    decoder.receiver.open("t", "request", 0, [4, 5, 6, 7], 4)
    peer = start_peer(
        "stall", geometry=SHAPE, seed=1, address=decoder.endpoint.address, ticket="t", block_ids=[0, 1, 2, 3]
    )
    assert peer.hear() == peer.pid
    eventually(lambda: isinstance(decoder.receiver.state("t"), Receiving))
    peer.kill()
    eventually(lambda: decoder.server.connections == 0)
    assert decoder.completed.empty()
    assert decoder.failed.empty()
    state = decoder.receiver.state("t")
    assert isinstance(state, Open)
    assert state.received == 0
    # The next attempt gets the blocks, whole.
    decoder.receiver.close("t")
    decoder.receiver.open("u", "request", 1, [4, 5, 6, 7], 4)
    pool = bench.pool()
    bench.sender(pool).send(decoder.endpoint, "u", 0, [0, 1, 2, 3], True).result(60)
    assert (decoder.pages([4, 5, 6, 7]) == pool.array.reshape(SHAPE)[:, :4]).all()


def test_embeddings_move_between_processes(start_peer: Callable[..., Any], backend: TransferBackend) -> None:
    peer = start_peer("store", size=70_001, seed=5, backend="auto")
    made = peer.hear()
    endpoint = Endpoint(made["address"], host_id())
    handle = EmbeddingHandle("other", "hash", endpoint, made["size"], made["checksum"])
    copy = pull(handle, backend=backend)
    assert (copy == np.random.default_rng(5).integers(0, 256, 70_001, dtype=np.uint8)).all()
    copy[:] = 0  # the caller's own
    peer.kill()
    with pytest.raises(Unavailable):
        pull(handle, backend=backend)


def test_forced_shared_memory_to_another_host_is_refused() -> None:
    handle = EmbeddingHandle("other", "hash", Endpoint("127.0.0.1:9", "another host"), 1, 0)
    with pytest.raises(FailedPrecondition, match="is on another host"):
        pull(handle, backend=TransferBackend.SHARED_MEMORY)
