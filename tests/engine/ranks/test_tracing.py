"""Rank 0 gets what the others have recorded, of the trace that is being taken and of no other."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from triptych.core.trace import Lane, Recorder
from triptych.engine.ranks import tracing
from triptych.engine.ranks.tracing import TracedRanks, TracingRank
from triptych.parallel.channel import Hub, Member


class Other:
    """Rank 1, which answers when a test has it answer."""

    def __init__(self, member: Member) -> None:
        self.recorder = Recorder()
        self._member = member
        self._handlers = TracingRank(self.recorder, member.send).handlers

    def obey(self, messages: int) -> None:
        """Takes the next so many messages."""
        for _ in range(messages):
            message = self._member.receive()
            self._handlers[type(message)](message)

    def do(self, name: str) -> None:
        assert self.recorder.recording is not None
        self.recorder.recording.add(Lane.COMPUTE, name, 1.0, 2.0)


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub(2)
    yield made
    made.close()


@pytest.fixture
def other(hub: Hub) -> Other:
    member = Member(hub.address, hub.key, 1)
    hub.gather(60)
    return Other(member)


def taken(ranks: TracedRanks, other: Other) -> list[tuple[str, int]]:
    """What rank 1 says of a trace that it is told the end of, and whose it is."""
    with ThreadPoolExecutor() as pool:
        spans = pool.submit(ranks.end)
        other.obey(1)
        return [(span.name, span.rank) for span in spans.result(60)]


def test_every_trace_has_what_was_done_in_it(hub: Hub, other: Other) -> None:
    ranks = TracedRanks(hub, 2)
    for name in ("first", "second"):
        ranks.begin()
        other.obey(1)
        other.do(name)
        assert taken(ranks, other) == [(name, 1)]
    assert other.recorder.recording is None


def test_an_answer_that_comes_too_late_is_in_no_later_trace(
    hub: Hub, other: Other, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks = TracedRanks(hub, 2)
    ranks.begin()
    other.obey(1)
    other.do("late")
    with monkeypatch.context() as patience:
        patience.setattr(tracing, "_ANSWERING", 0.0)
        assert ranks.end() == []
    other.obey(1)
    for name in ("second", "third"):
        ranks.begin()
        other.obey(1)
        other.do(name)
        assert taken(ranks, other) == [(name, 1)]
