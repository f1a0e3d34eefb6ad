"""What lies before a compute thread is counted: one that hangs says nothing else of itself."""

from triptych.stages.inbox import Inbox
from triptych.stages.messages import Drained


def test_messages_wait_until_they_are_taken() -> None:
    inbox = Inbox()
    assert inbox.waiting == 0
    inbox.post(Drained())
    inbox.post(Drained())
    assert inbox.waiting == 2
    assert inbox.take(None) == [Drained(), Drained()]
    assert inbox.waiting == 0
