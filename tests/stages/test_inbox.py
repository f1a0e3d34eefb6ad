"""What lies before a compute thread is counted: one that hangs says nothing else of itself."""

import queue
from typing import Any

import pytest

from triptych.core.generation import OperationKey
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.inbox import ComputeThread, Inbox
from triptych.stages.messages import Drained, Message, Unfenced


class Stage:
    """Has nothing to compute, and can handle nothing."""

    def __init__(self) -> None:
        self.asked: queue.Queue[Message] = queue.Queue()

    def load(self) -> pb.LoadReport:
        return pb.LoadReport()

    def turn(self) -> bool:
        return False

    def handle(self, message: Message) -> None:
        self.asked.put(message)
        raise ZeroDivisionError("a bug")


def test_messages_wait_until_they_are_taken() -> None:
    inbox = Inbox()
    assert inbox.waiting == 0
    inbox.post(Drained())
    inbox.post(Drained())
    assert inbox.waiting == 2
    assert inbox.take(None) == [Drained(), Drained()]
    assert inbox.waiting == 0


def test_only_a_fence_that_failed_ends_the_worker(caplog: pytest.LogCaptureFixture) -> None:
    stage: Any = Stage()
    inbox, crashes = Inbox(), queue.Queue[str]()
    thread = ComputeThread(stage, inbox)
    thread.start(lambda _: crashes.put("crashed"))
    for _ in range(2):
        inbox.post(Drained())
        assert stage.asked.get(timeout=60) == Drained()
    assert crashes.empty()
    inbox.post(Unfenced(OperationKey("a", 1), ZeroDivisionError("a bug")))
    assert crashes.get(timeout=60) == "crashed"
    thread.stop()
    assert "could not be fenced" in caplog.text
