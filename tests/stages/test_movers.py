import queue
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from triptych.core.errors import Internal, NotFound
from triptych.core.generation import OperationKey
from triptych.core.jobs.events import Fenced
from triptych.core.positions import Grid
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.messages import MediaPulled, Message, Unfenced
from triptych.stages.movers import FENCE_THREADS, PULL_THREADS, Movers
from triptych.stages.ranks import KvLayout, RankKv, ReplicaKv
from triptych.transfer import Endpoint, Heads

A, B = OperationKey("a", 0), OperationKey("b", 0)


class Ends:
    """A sender and a receiver that note what is fenced."""

    def __init__(self) -> None:
        self.cancelled: list[str] = []
        self.closed: list[str] = []
        self.stalled: queue.Queue[str] = queue.Queue()
        self.ending = threading.Event()

    def cancel(self, ticket_id: str) -> None:
        if ticket_id.startswith("stalled"):
            self.stalled.put(ticket_id)
            assert self.ending.wait(60)
        if ticket_id == "broken":
            raise ZeroDivisionError("a bug")
        self.cancelled.append(ticket_id)

    def close(self, ticket_id: str) -> None:
        self.closed.append(ticket_id)

    def shutdown(self) -> None:
        pass


class Encoders:
    """Encode workers that hang until `answering` is set, or refuse."""

    def __init__(self) -> None:
        self.asked: queue.Queue[str] = queue.Queue()
        self.answering = threading.Event()
        self.error: Exception | None = None

    def pull(self, handle: pb.EmbeddingHandle) -> Tensor:
        self.asked.put(handle.content_hash)
        assert self.answering.wait(60)
        if self.error:
            raise self.error
        return torch.arange(3 * handle.rows * 4).view(3, handle.rows, 4)


@pytest.fixture
def ends() -> Ends:
    return Ends()


@pytest.fixture
def encoders() -> Encoders:
    return Encoders()


@pytest.fixture
def posted() -> "queue.Queue[Message | Unfenced]":
    return queue.Queue()


@pytest.fixture
def movers(ends: Ends, encoders: Encoders, posted: "queue.Queue[Message | Unfenced]") -> Iterator[Movers]:
    layout = KvLayout((Heads(0, 1),), 8, (Endpoint("", ""),))
    kv = ReplicaKv(RankKv(cast(Any, ends), cast(Any, ends)), layout, (), posted.put)
    movers = Movers(kv, encoders.pull, posted.put)
    yield movers
    encoders.answering.set()
    ends.ending.set()
    movers.close()


def span(name: str, start: int = 0) -> pb.MediaSpan:
    return pb.MediaSpan(start=start, length=2, handle=pb.EmbeddingHandle(content_hash=name, rows=2))


def test_embeddings_come_with_the_place_they_go_to(
    movers: Movers, encoders: Encoders, posted: "queue.Queue[Message | Unfenced]"
) -> None:
    encoders.answering.set()
    movers.pull(A, (span("x", 3), span("y", 9)))
    message = posted.get(timeout=60)
    assert isinstance(message, MediaPulled)
    assert isinstance(message.media, tuple)
    assert [(media.start, media.length) for media in message.media] == [(3, 2), (9, 2)]


def test_several_spans_of_an_image_are_parts_of_one_embedding(
    movers: Movers, encoders: Encoders, posted: "queue.Queue[Message | Unfenced]"
) -> None:
    encoders.answering.set()
    handle = pb.EmbeddingHandle(content_hash="x", rows=5)
    grid = pb.Grid(time=1, height=2, width=1, interval=1)
    first = pb.MediaSpan(start=3, length=2, row=0, handle=handle, grid=grid)
    movers.pull(A, (first, pb.MediaSpan(start=7, length=3, row=2, handle=handle)))
    message = posted.get(timeout=60)
    assert isinstance(message, MediaPulled)
    assert isinstance(message.media, tuple)
    whole = torch.arange(60).view(3, 5, 4)
    for media, rows, shape in zip(message.media, (slice(0, 2), slice(2, 5)), (Grid(1, 2, 1), None), strict=True):
        assert media.values is not None
        assert media.deepstack is not None
        assert torch.equal(media.values, whole[0, rows])
        assert torch.equal(media.deepstack, whole[1:, rows])
        assert (media.row, media.grid) == (rows.start, shape)
    assert encoders.asked.qsize() == 1


@pytest.mark.parametrize("error", [NotFound("it is gone"), ZeroDivisionError("a bug")])
def test_an_error_is_the_answer(
    movers: Movers, encoders: Encoders, posted: "queue.Queue[Message | Unfenced]", error: Exception
) -> None:
    encoders.error = error
    encoders.answering.set()
    movers.pull(A, (span("x"),))
    message = posted.get(timeout=60)
    assert isinstance(message, MediaPulled)
    assert isinstance(message.media, NotFound if isinstance(error, NotFound) else Internal)


def test_encoders_that_hang_delay_no_fence(
    movers: Movers, encoders: Encoders, ends: Ends, posted: "queue.Queue[Message | Unfenced]"
) -> None:
    for i in range(PULL_THREADS):
        movers.pull(OperationKey(f"hanging {i}", 0), (span("x"),))
        encoders.asked.get(timeout=60)
    movers.stop_sending(A, "out")
    movers.stop_receiving(B, "in")
    assert {posted.get(timeout=60), posted.get(timeout=60)} == {Fenced(A), Fenced(B)}
    assert (ends.cancelled, ends.closed) == (["out"], ["in"])


def test_a_fence_that_fails_is_answered(movers: Movers, posted: "queue.Queue[Message | Unfenced]") -> None:
    movers.stop_sending(A, "broken")
    message = posted.get(timeout=60)
    assert isinstance(message, Unfenced)
    assert (message.key, type(message.error)) == (A, ZeroDivisionError)


def test_peers_that_stall_delay_no_fence_of_others(
    movers: Movers, ends: Ends, posted: "queue.Queue[Message | Unfenced]"
) -> None:
    for i in range(FENCE_THREADS - 1):
        movers.stop_sending(OperationKey(f"stalled {i}", 0), f"stalled {i}")
        ends.stalled.get(timeout=60)
    movers.stop_sending(A, "out")
    movers.stop_receiving(B, "in")
    assert {posted.get(timeout=60), posted.get(timeout=60)} == {Fenced(A), Fenced(B)}
    assert posted.empty()


def test_a_queued_pull_that_nobody_waits_for_is_skipped(
    movers: Movers, encoders: Encoders, posted: "queue.Queue[Message | Unfenced]"
) -> None:
    for i in range(PULL_THREADS):
        movers.pull(OperationKey(f"hanging {i}", 0), (span("x"),))
        encoders.asked.get(timeout=60)
    movers.pull(A, (span("freed"),))
    movers.pull(B, (span("wanted"),))
    movers.drop_pull(A)
    encoders.answering.set()
    while not (isinstance(message := posted.get(timeout=60), MediaPulled) and message.key == B):
        assert isinstance(message, MediaPulled)
        assert message.key != A
    assert encoders.asked.get(timeout=60) == "wanted"
    assert encoders.asked.empty()


def test_a_pull_under_way_stops_before_the_next_embedding(
    movers: Movers, encoders: Encoders, posted: "queue.Queue[Message | Unfenced]"
) -> None:
    movers.pull(A, (span("x"), span("y")))
    assert encoders.asked.get(timeout=60) == "x"
    movers.drop_pull(A)
    encoders.answering.set()
    movers.close()
    assert encoders.asked.empty()
    assert posted.empty()
