"""An encode worker's own part, with a tower that the test drives."""

import hashlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from triptych.core.encoding.limits import EncodeLimits
from triptych.core.errors import DeadlineExceeded, Internal, InvalidArgument, ResourceExhausted, Unavailable
from triptych.core.prompt import ImagePart
from triptych.core.trace import Recorder
from triptych.models.pictures import MediaLayout, Rows
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.encode_batch import BatchEncoder, Shape
from triptych.stages.encode_stage import EncodeStage
from triptych.stages.identity import Identity
from triptych.stages.messages import Command
from triptych.transfer import EmbeddingStore

ROWS, COLUMNS, LEVELS = 3, 5, 2
PICTURE_BYTES = (1 + LEVELS) * ROWS * COLUMNS * 4
ROOM, QUEUE = 40, 60
_ids = itertools.count()


@dataclass
class Prepared:
    pixels: Any
    layout: MediaLayout


class Tower:
    """In the place of `Eyes`: a picture's bytes are its pixels, the embedding repeats their sum."""

    def __init__(self) -> None:
        self.prepared: list[bytes] = []
        self.seen = 0
        self.entered: queue.Queue[int] = queue.Queue()
        self.open = threading.Event()
        self.open.set()
        self.error: Exception | None = None

    def prepare(self, part: ImagePart, field: str) -> Prepared:
        self.prepared.append(part.data)
        if part.data.startswith(b"bad"):
            raise InvalidArgument("not a picture", field=field)
        pixels = np.frombuffer(part.data, dtype=np.uint8).astype(np.float32)
        return Prepared(pixels, MediaLayout(0, (Rows(rows_of(part.data)),), 1))

    def see(self, image: Prepared) -> Tensor:
        self.entered.put(1)
        assert self.open.wait(60)
        if self.error:
            raise self.error
        self.seen += 1
        return torch.full((1 + LEVELS, image.layout.rows, COLUMNS), float(image.pixels.sum()))


def rows_of(data: bytes) -> int:
    """A picture that says so is large."""
    return 3 * ROWS if data.startswith(b"large") else ROWS


class Router:
    """A session that keeps what is sent to it."""

    def __init__(self) -> None:
        self.events: queue.Queue[pb.ConnectResponse] = queue.Queue()
        self.broken = 0

    def send(self, event: pb.ConnectResponse) -> None:
        if self.broken:
            self.broken -= 1
            raise RuntimeError("it cannot be sent")
        self.events.put(event)

    def failed(self) -> pb.Failed:
        event = self.events.get(timeout=60)
        assert event.HasField("failed"), event
        return event.failed

    def freed(self) -> pb.OperationKey:
        event = self.events.get(timeout=60)
        assert event.HasField("freed"), event
        return event.freed.key

    def done(self) -> pb.EncodeDone:
        event = self.events.get(timeout=60)
        assert event.HasField("encode_done"), event
        return event.encode_done


@pytest.fixture
def tower() -> Tower:
    return Tower()


@pytest.fixture
def router() -> Router:
    return Router()


@pytest.fixture
def store() -> Iterator[EmbeddingStore]:
    store = EmbeddingStore("here", max_shared=8)
    yield store
    store.close()


@pytest.fixture
def crashes() -> list[str]:
    return []


@pytest.fixture
def stage(tower: Tower, store: EmbeddingStore, crashes: list[str]) -> Iterator[EncodeStage]:
    encoder = BatchEncoder(cast(Any, tower), Shape(COLUMNS, LEVELS, torch.float32), threads=1)
    limits = EncodeLimits(ROOM * PICTURE_BYTES, max_entries=8, max_waiting_images=QUEUE)
    stage = EncodeStage(encoder, store, limits, Identity("encode-0", "here", pb.DataEndpoint()), Recorder())
    stage.start(lambda _: crashes.append("crashed"))
    yield stage
    tower.open.set()
    stage.stop()
    assert crashes == []


@pytest.fixture
def encode(stage: EncodeStage, router: Router) -> Callable[..., pb.OperationKey]:
    def send(
        pictures: int | list[bytes],
        timeout_ms: int = 0,
        age: float = 0.0,
        key: pb.OperationKey | None = None,
        anew: bool = False,
    ) -> pb.OperationKey:
        key = key or pb.OperationKey(request_id=f"request {next(_ids)}", epoch=1)
        if isinstance(pictures, int):
            pictures = [f"{key.request_id:20}{i:4}".encode() for i in range(pictures)]
        images = [
            pb.EncodeImage(index=i, content_hash=hashlib.sha256(data).hexdigest(), data=data, rows=rows_of(data))
            for i, data in enumerate(pictures)
        ]
        request = pb.ConnectRequest(encode=pb.Encode(key=key, images=images, timeout_ms=timeout_ms, anew=anew))
        stage.encode(Command(cast(Any, router), request, time.monotonic() - age))
        return key

    return send


@pytest.fixture
def free(stage: EncodeStage, router: Router) -> Callable[[pb.OperationKey], None]:
    def send(key: pb.OperationKey) -> None:
        request = pb.ConnectRequest(free=pb.Free(key=key))
        stage.free(Command(cast(Any, router), request, time.monotonic()))

    return send


@pytest.fixture
def load(stage: EncodeStage) -> Callable[[], pb.LoadReport]:
    def report() -> pb.LoadReport:
        report = pb.LoadReport()
        stage.report(report)
        return report

    return report


def test_every_picture_gets_its_own_embedding(
    encode: Callable[..., pb.OperationKey], router: Router, store: EmbeddingStore, tower: Tower
) -> None:
    pictures = [bytes([i, 2, 3]) for i in range(20)]
    key = encode([*pictures, pictures[4]])
    done = router.done()
    assert done.key == key
    assert [handle.index for handle in done.handles] == list(range(21))
    for handle, data in zip(done.handles, [*pictures, pictures[4]], strict=True):
        stored = store.read("here", handle.content_hash).view(np.float32)
        assert (stored == np.full((1 + LEVELS) * ROWS * COLUMNS, sum(data))).all()
    assert tower.seen == 20


def test_embeddings_have_the_rows_of_their_pictures(
    encode: Callable[..., pb.OperationKey], router: Router, store: EmbeddingStore, load: Callable[[], pb.LoadReport]
) -> None:
    encode([b"small", b"large"])
    small, large = router.done().handles
    assert [(h.rows, h.columns, h.levels) for h in (small, large)] == [(r, COLUMNS, LEVELS) for r in (ROWS, 3 * ROWS)]
    assert store.read("here", large.content_hash).view(np.float32).tolist() == [sum(b"large")] * (9 * ROWS * COLUMNS)
    assert load().held_embedding_bytes == 4 * PICTURE_BYTES


def test_a_picture_of_other_rows_than_its_prompt_has_tokens_fails_its_request(
    stage: EncodeStage, encode: Callable[..., pb.OperationKey], router: Router, store: EmbeddingStore
) -> None:
    image = pb.EncodeImage(content_hash="x", data=b"large", field="image", rows=ROWS)
    request = pb.ConnectRequest(encode=pb.Encode(key=pb.OperationKey(request_id="wrong"), images=[image]))
    stage.encode(Command(cast(Any, router), request, time.monotonic()))
    assert router.failed().message == f"image has {3 * ROWS} rows; its prompt has {ROWS} tokens for it"
    assert "x" not in store
    encode([b"large"])
    assert router.done().handles[0].rows == 3 * ROWS


def test_a_damaged_embedding_is_made_again_for_everybody(
    encode: Callable[..., pb.OperationKey], router: Router, store: EmbeddingStore, tower: Tower
) -> None:
    encode([b"picture"])
    [handle] = router.done().handles
    damaged = store.read("here", handle.content_hash)
    intact = damaged.copy()
    damaged.flags.writeable = True
    damaged[3] ^= 0x40
    encode([b"picture"])
    assert list(router.done().handles) == [handle]
    assert tower.seen == 1
    encode([b"picture"], anew=True)
    assert list(router.done().handles) == [handle]
    assert tower.seen == 2
    assert (store.read("here", handle.content_hash) == intact).all()


def test_what_comes_during_a_batch_waits(
    encode: Callable[..., pb.OperationKey], router: Router, tower: Tower, load: Callable[[], pb.LoadReport]
) -> None:
    tower.open.clear()
    encode(1)
    tower.entered.get(timeout=60)
    for pictures in (7, 8, 2, 1):
        encode(pictures)
    assert load().queued_images == 18
    tower.open.set()
    for _ in range(5):
        router.done()
    assert tower.seen == 19
    assert load().queued_images == 0


def test_a_tower_that_stands_still_can_be_told_from_one_that_rests(
    encode: Callable[..., pb.OperationKey], router: Router, tower: Tower, load: Callable[[], pb.LoadReport]
) -> None:
    assert (load().runnable_requests, load().steps) == (0, 0)
    tower.open.clear()
    encode(2)
    encode(1)
    tower.entered.get(timeout=60)
    assert (load().runnable_requests, load().steps) == (1, 0)
    tower.open.set()
    router.done()
    router.done()
    assert (load().runnable_requests, load().steps) == (0, 3)


def test_pictures_nobody_waits_for_are_not_even_decoded(
    encode: Callable[..., pb.OperationKey], router: Router, tower: Tower
) -> None:
    encode(2, timeout_ms=1000, age=1.0)
    assert router.failed().code == DeadlineExceeded.code
    encode([b"wanted"])
    router.done()
    assert tower.prepared == [b"wanted"]


def test_a_picture_that_is_bad_fails_its_request_alone(
    encode: Callable[..., pb.OperationKey], router: Router, tower: Tower
) -> None:
    tower.open.clear()
    encode(1)
    tower.entered.get(timeout=60)
    good, bad = encode(2), encode([b"bad"])
    tower.open.set()
    router.done()
    assert router.done().key == good
    failed = router.failed()
    assert (failed.key, failed.code) == (bad, InvalidArgument.code)


def test_more_pictures_than_shared_entries_are_kept(
    encode: Callable[..., pb.OperationKey], router: Router, load: Callable[[], pb.LoadReport]
) -> None:
    encode(ROOM)
    assert len(router.done().handles) == ROOM
    assert (load().held_embeddings, load().held_embedding_bytes) == (ROOM, ROOM * PICTURE_BYTES)


def test_a_request_that_never_fits_is_refused_at_once(
    encode: Callable[..., pb.OperationKey],
    free: Callable[[pb.OperationKey], None],
    router: Router,
    tower: Tower,
    load: Callable[[], pb.LoadReport],
) -> None:
    key = encode(ROOM + 1)
    failed = router.failed()
    assert failed.code == ResourceExhausted.code
    assert f"{ROOM + 1} images need {(ROOM + 1) * PICTURE_BYTES} bytes" in failed.message
    assert f"at most {ROOM * PICTURE_BYTES}" in failed.message
    assert load().running_requests == 1
    free(key)
    assert router.freed() == key
    assert (load().running_requests, tower.prepared) == (0, [])


def test_more_pictures_than_may_wait_are_refused_at_once(
    encode: Callable[..., pb.OperationKey], router: Router, tower: Tower, load: Callable[[], pb.LoadReport]
) -> None:
    tower.open.clear()
    encode(1)
    tower.entered.get(timeout=60)
    waiting = [encode(size) for size in (ROOM - 1, QUEUE - ROOM + 1)]
    refused = encode(1)
    failed = router.failed()
    assert (failed.key, failed.code, failed.retry_after_ms) == (refused, ResourceExhausted.code, 1000)
    assert f"{QUEUE} images wait" in failed.message
    assert load().queued_images == QUEUE
    tower.open.set()
    router.done()
    assert [router.done().key] == waiting[:1]


def test_a_request_waits_until_room_is_given_back_and_is_not_overtaken(
    encode: Callable[..., pb.OperationKey],
    free: Callable[[pb.OperationKey], None],
    router: Router,
    tower: Tower,
    load: Callable[[], pb.LoadReport],
) -> None:
    first, second = encode(20), encode(15)
    assert {router.done().key.request_id for _ in range(2)} == {first.request_id, second.request_id}
    large, small = encode(10), encode(1)
    assert load().queued_images == 11
    free(second)
    assert router.freed() == second
    assert [router.done().key for _ in range(2)] == [large, small]
    assert tower.seen == 46


def test_pictures_that_are_held_anyway_need_no_room(
    encode: Callable[..., pb.OperationKey], router: Router, tower: Tower
) -> None:
    pictures = [bytes([i]) for i in range(ROOM)]
    encode(pictures)
    router.done()
    encode(pictures)
    assert len(router.done().handles) == ROOM
    assert tower.seen == ROOM


def test_waiting_ends_with_free_and_with_the_deadline(
    encode: Callable[..., pb.OperationKey],
    free: Callable[[pb.OperationKey], None],
    router: Router,
    load: Callable[[], pb.LoadReport],
) -> None:
    encode(ROOM)
    router.done()
    given_up = encode(1)
    late = encode(1, timeout_ms=100)
    failed = router.failed()
    assert (failed.key, failed.code) == (late, DeadlineExceeded.code)
    assert load().queued_images == 1
    free(given_up)
    assert router.freed() == given_up
    assert load().queued_images == 0
    assert router.events.empty()


def test_an_error_of_the_tower_fails_its_batch_and_not_the_next(
    encode: Callable[..., pb.OperationKey], router: Router, tower: Tower
) -> None:
    tower.error = ZeroDivisionError("a bug")
    encode(1)
    assert router.failed().code == Internal.code
    tower.error = None
    encode(1)
    router.done()


def test_an_answer_that_cannot_be_sent_ends_nothing_else(
    encode: Callable[..., pb.OperationKey], router: Router
) -> None:
    router.broken = 1
    key = encode(1)
    failed = router.failed()
    assert (failed.key, failed.code) == (key, Internal.code)
    router.broken = 2
    encode(1)
    encode(1)
    assert router.done().handles


def test_an_error_of_the_store_is_told(
    encode: Callable[..., pb.OperationKey], router: Router, store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingStore, "put", lambda *_: 1 / 0)
        encode(1)
        assert router.failed().code == Internal.code
    encode(1)
    router.done()
    assert store.count == 1


def test_a_worker_that_drains_takes_nothing_new_and_finishes_the_rest(
    encode: Callable[..., pb.OperationKey], router: Router, tower: Tower, stage: EncodeStage
) -> None:
    tower.open.clear()
    encode(1)
    tower.entered.get(timeout=60)
    encode(2)
    stage.drain()
    late = encode(1)
    failed = router.failed()
    assert (failed.key, failed.code, failed.message) == (late, Unavailable.code, "worker encode-0 is draining")
    tower.open.set()
    assert [len(router.done().handles) for _ in range(2)] == [1, 2]


def test_a_router_that_goes_takes_its_pictures_along(
    encode: Callable[..., pb.OperationKey],
    router: Router,
    tower: Tower,
    stage: EncodeStage,
    load: Callable[[], pb.LoadReport],
) -> None:
    encode(3)
    router.done()
    tower.open.clear()
    encode(2)
    for _ in range(3 + 1):
        tower.entered.get(timeout=60)
    encode(1)
    stage.drop_session(cast(Any, router))
    report = load()
    assert (report.running_requests, report.queued_images, report.held_embeddings) == (0, 0, 0)
    tower.open.set()
    stage.stop()
    assert router.events.empty()
    assert stage.audit().quiescent


def again(key: pb.OperationKey) -> pb.OperationKey:
    return pb.OperationKey(request_id=key.request_id, epoch=key.epoch + 1)


def test_a_second_attempt_computes_nothing_and_gets_equal_handles(
    encode: Callable[..., pb.OperationKey],
    free: Callable[[pb.OperationKey], None],
    router: Router,
    tower: Tower,
    load: Callable[[], pb.LoadReport],
) -> None:
    pictures = [bytes([i, 2, 3]) for i in range(5)]
    first = encode(pictures)
    handles = list(router.done().handles)
    second = encode(pictures, key=again(first))
    done = router.done()
    assert (done.key, list(done.handles)) == (second, handles)
    free(first)
    assert router.freed() == first
    assert load().held_embeddings == 5
    free(second)
    assert router.freed() == second
    assert load().held_embeddings == 0
    third = encode(pictures, key=again(second))
    done = router.done()
    assert (done.key, list(done.handles)) == (third, handles)
    assert (load().encoded_images, tower.seen, len(tower.prepared)) == (5, 5, 5)


def test_an_attempt_that_is_freed_while_it_is_computed_has_computed_for_the_next(
    encode: Callable[..., pb.OperationKey],
    free: Callable[[pb.OperationKey], None],
    router: Router,
    tower: Tower,
    stage: EncodeStage,
    load: Callable[[], pb.LoadReport],
) -> None:
    pictures = [bytes([i, 2, 3]) for i in range(5)]
    tower.open.clear()
    first = encode(pictures)
    tower.entered.get(timeout=60)
    free(first)
    second = encode(pictures, key=again(first))
    assert router.freed() == first
    assert load().held_embeddings == 0
    tower.open.set()
    done = router.done()
    assert (done.key, len(done.handles)) == (second, 5)
    assert (load().encoded_images, load().held_embeddings, tower.seen) == (5, 5, 5)
    free(second)
    assert router.freed() == second
    assert stage.audit().quiescent


def test_an_attempt_may_come_at_any_moment_of_the_end_of_the_one_before(
    encode: Callable[..., pb.OperationKey],
    free: Callable[[pb.OperationKey], None],
    router: Router,
    tower: Tower,
    load: Callable[[], pb.LoadReport],
) -> None:
    pictures = [bytes([i, 2, 3]) for i in range(5)]
    key = encode(pictures)
    handles = list(router.done().handles)
    together = threading.Barrier(2)

    def end(old: pb.OperationKey) -> None:
        together.wait()
        free(old)

    for _ in range(200):
        old, key = key, again(key)
        ending = threading.Thread(target=end, args=(old,))
        ending.start()
        together.wait()
        encode(pictures, key=key)
        ending.join()
        told = {event.WhichOneof("event"): event for event in (router.events.get(timeout=60) for _ in range(2))}
        assert told["freed"].freed.key == old
        assert told["encode_done"].encode_done.key == key
        assert list(told["encode_done"].encode_done.handles) == handles
        assert load().held_embeddings == 5
    assert (load().encoded_images, tower.seen) == (5, 5)
