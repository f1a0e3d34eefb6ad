from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from triptych.core.errors import DataLoss, FailedPrecondition, InvalidArgument, Unavailable
from triptych.transfer import (
    EmbeddingHandle,
    EmbeddingStore,
    Endpoint,
    SharedSegment,
    TransferBackend,
    TransferCounts,
    TransferServer,
    pull,
)
from triptych.transfer.frames import Fetch, Frame
from triptych.transfer.segment import Bytes

SIZE = 10_007


class Encoder:
    """A store behind a server."""

    def __init__(self, backend: TransferBackend = TransferBackend.AUTO) -> None:
        self.store = EmbeddingStore("here", backend=backend)
        self.server = TransferServer([self.store])

    def put(self, key: str, data: Bytes) -> EmbeddingHandle:
        made = self.store.put(key, data)
        return EmbeddingHandle("here", key, self.server.endpoint, made.size, made.checksum)


@pytest.fixture
def start_encoder() -> Iterator[Callable[..., Encoder]]:
    encoders: list[Encoder] = []

    def start(backend: TransferBackend = TransferBackend.AUTO) -> Encoder:
        encoders.append(Encoder(backend))
        return encoders[-1]

    yield start
    for encoder in encoders:
        encoder.server.shutdown()
        encoder.store.close()


@pytest.fixture
def data(rng: np.random.Generator) -> Bytes:
    return rng.integers(0, 256, SIZE, dtype=np.uint8)


@pytest.mark.parametrize("stored", [TransferBackend.AUTO, TransferBackend.TCP])
def test_the_reader_gets_a_copy_of_its_own(
    start_encoder: Callable[..., Encoder],
    data: Bytes,
    stored: TransferBackend,
    eventually: Callable[[Callable[[], bool]], None],
) -> None:
    encoder = start_encoder(stored)
    handle = encoder.put("hash", data)
    copy = pull(handle)
    assert (copy == data).all()
    copy[:] = 0
    assert (pull(handle) == data).all()
    over_tcp = stored is TransferBackend.TCP or not SharedSegment.available()
    expected = TransferCounts(chunks=2, bytes=2 * SIZE, messages=2 if over_tcp else 0)
    eventually(lambda: encoder.store.counts == expected)


def test_the_store_of_the_same_process_needs_no_connection(
    start_encoder: Callable[..., Encoder], data: Bytes
) -> None:
    encoder = start_encoder()
    handle = replace(encoder.put("hash", data), endpoint=Endpoint("127.0.0.1:9", "unreachable"))
    copy = pull(handle, local=encoder.store)
    assert (copy == data).all()
    copy[:] = 0
    assert (encoder.store.read("here", "hash") == data).all()
    with pytest.raises(Unavailable, match="no embedding of other"):
        pull(replace(handle, content_hash="other"), local=encoder.store)
    with pytest.raises(DataLoss):
        pull(replace(handle, checksum=handle.checksum ^ 1), local=encoder.store)


def test_entries_are_read_only_and_addressed_by_content(start_encoder: Callable[..., Encoder], data: Bytes) -> None:
    store = start_encoder().store
    store.put("hash", data)
    with pytest.raises(Unavailable, match="no embedding of other"):
        store.embedding("other")
    with pytest.raises(ValueError, match="read-only"):
        store.read("here", "hash")[0] = 1
    with pytest.raises(InvalidArgument, match="at least one byte"):
        store.put("empty", data[:0])
    assert ("hash" in store, "empty" in store, store.count) == (True, False, 1)


def test_entries_beyond_a_number_travel_over_tcp(data: Bytes) -> None:
    store = EmbeddingStore("here", max_shared=2)
    server = TransferServer([store])
    made = [store.put(key, data) for key in "vwxyz"]
    for embedding in made:
        handle = EmbeddingHandle("here", embedding.content_hash, server.endpoint, SIZE, embedding.checksum)
        assert (pull(handle) == data).all()
    server.shutdown()
    assert store.counts.chunks == 5
    assert store.counts.messages == (3 if SharedSegment.available() else 5)
    store.close()
    assert store.count == 0


def test_a_reader_of_a_forgotten_entry_keeps_its_view(data: Bytes) -> None:
    store = EmbeddingStore("here")
    store.put("x", data)
    view = store.read("here", "x")
    for _ in range(2):
        store.forget("x")
    store.put("y", np.zeros(SIZE, dtype=np.uint8))
    assert (view == data).all()
    with pytest.raises(Unavailable):
        store.read("here", "x")
    store.close()


def test_new_bytes_replace_older_ones_for_new_readers(data: Bytes) -> None:
    store = EmbeddingStore("here")
    made = store.put("x", data)
    before = store.read("here", "x")
    assert store.put("x", data) == store.embedding("x") == made
    assert not np.shares_memory(store.read("here", "x"), before)
    assert (before == data).all()
    assert store.count == 1
    store.close()


def test_another_incarnation_and_unknown_content_are_typed(
    start_encoder: Callable[..., Encoder], data: Bytes, backend: TransferBackend
) -> None:
    handle = start_encoder().put("hash", data)
    with pytest.raises(Unavailable, match="made by worker incarnation before; this is here"):
        pull(replace(handle, incarnation="before"), backend=backend)
    with pytest.raises(Unavailable, match="no embedding of other is stored"):
        pull(replace(handle, content_hash="other"), backend=backend)


def test_other_bytes_under_the_same_hash_are_data_loss(start_encoder: Callable[..., Encoder], data: Bytes) -> None:
    handle = start_encoder().put("hash", data)
    for stale in (replace(handle, checksum=handle.checksum ^ 1), replace(handle, size=5)):
        with pytest.raises(DataLoss, match="was replaced"):
            pull(stale)


def _corrupting(store: EmbeddingStore, times: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Damages the stored bytes while they are being read, as often as asked."""
    tries: list[int] = []
    answer = EmbeddingStore._answer

    def damaged(self: EmbeddingStore, connection: Any, fetch: Fetch) -> None:
        stored = self._stored[fetch.content_hash]
        tries.append(1)
        stored.array.flags.writeable = True
        stored.array[7] ^= len(tries) in (1, times + 1)
        stored.array.flags.writeable = False
        answer(self, connection, fetch)

    monkeypatch.setattr(EmbeddingStore, "_answer", damaged)
    return tries


@pytest.mark.parametrize(("times", "arrives"), [(1, True), (2, True), (99, False)])
def test_damage_is_tried_again_and_never_accepted(
    start_encoder: Callable[..., Encoder],
    data: Bytes,
    backend: TransferBackend,
    monkeypatch: pytest.MonkeyPatch,
    times: int,
    arrives: bool,
) -> None:
    encoder = start_encoder()
    handle = encoder.put("hash", data)
    tries = _corrupting(encoder.store, times, monkeypatch)
    if arrives:
        assert (pull(handle, backend=backend) == data).all()
    else:
        with pytest.raises(DataLoss, match="kept arriving with a wrong checksum"):
            pull(handle, backend=backend)
    assert len(tries) == min(times + 1, 3)


def test_an_attach_that_fails_falls_back_to_tcp_with_one_line(
    start_encoder: Callable[..., Encoder],
    data: Bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def attach(ref: object) -> SharedSegment:
        raise FailedPrecondition("cannot attach")

    monkeypatch.setattr(SharedSegment, "attach", attach)
    handle = start_encoder().put("hash", data)
    assert (pull(handle) == data).all()
    assert len(caplog.records) == 1
    with pytest.raises(FailedPrecondition, match="cannot attach"):
        pull(handle, backend=TransferBackend.SHARED_MEMORY)


def test_a_system_without_memfd_uses_tcp(
    start_encoder: Callable[..., Encoder], data: Bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SharedSegment, "available", lambda: False)
    handle = start_encoder().put("hash", data)
    assert (pull(handle) == data).all()
    with pytest.raises(FailedPrecondition, match="cannot share memory"):
        pull(handle, backend=TransferBackend.SHARED_MEMORY)
    with pytest.raises(FailedPrecondition, match="no memfd"):
        SharedSegment.create(1)


def test_wishes_that_exclude_each_other_are_refused(start_encoder: Callable[..., Encoder], data: Bytes) -> None:
    with pytest.raises(FailedPrecondition, match="one worker wants tcp, the other shared_memory"):
        pull(start_encoder(TransferBackend.TCP).put("hash", data), backend=TransferBackend.SHARED_MEMORY)
    with pytest.raises(FailedPrecondition, match="one worker wants shared_memory, the other tcp"):
        pull(start_encoder(TransferBackend.SHARED_MEMORY).put("hash", data), backend=TransferBackend.TCP)


def test_one_server_serves_pages_and_embeddings(bench: Any, data: Bytes) -> None:
    decoder, store = bench.decoder(), EmbeddingStore("here")
    server = TransferServer([decoder.receiver, store])
    made = store.put("hash", data)
    decoder.receiver.open("t", "request", 0, [1], 1)
    bench.sender(bench.pool()).send(server.endpoint, "t", 0, [1], True).result(60)
    assert (pull(EmbeddingHandle("here", "hash", server.endpoint, made.size, made.checksum)) == data).all()
    server.shutdown()
    store.close()


def test_a_proxy_in_between_sees_only_descriptors_with_shared_memory(
    bench: Any, start_encoder: Callable[..., Encoder], data: Bytes
) -> None:
    seen: list[Frame] = []
    encoder = start_encoder()
    handle = encoder.put("hash", data)
    endpoint = bench.proxy(handle.endpoint, lambda frame, payload: seen.append(frame))
    assert (pull(replace(handle, endpoint=endpoint)) == data).all()
    assert [type(frame) for frame in seen] == [Fetch]
    assert encoder.store.counts.messages == 0
