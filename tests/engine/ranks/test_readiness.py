"""Rank 0 waits for the shares of the others, and not for ever."""

from collections.abc import Iterator
from queue import SimpleQueue
from time import monotonic, sleep
from typing import Any

import pytest

from triptych.engine.ranks.messages import Ready
from triptych.engine.ranks.readiness import LAG, Readiness, ToldProgress
from triptych.parallel import RankLost
from triptych.parallel.channel import Hub, Member


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub(3)
    yield made
    made.close()


def joined(hub: Hub) -> tuple[Member, Member]:
    members = Member(hub.address, hub.key, 1), Member(hub.address, hub.key, 2)
    hub.gather(60)
    return members


def test_it_waits_for_all(hub: Hub) -> None:
    readiness = Readiness(hub, 3)
    for member in joined(hub):
        member.send(Ready())
    readiness.wait(monotonic())
    hub.send(Ready())


def test_a_rank_that_lives_and_does_not_load_is_lost(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    readiness = Readiness(hub, 3)
    one, two = joined(hub)
    one.send(Ready())
    while readiness._answers.empty():
        sleep(0.01)
    monkeypatch.setattr("triptych.engine.ranks.readiness.LAG", -3.0)
    with pytest.raises(RankLost, match=r"ranks \[2\] have not gone on loading for [2-9] s"):
        readiness.wait(monotonic() - 5)
    for member in (one, two):
        with pytest.raises(RankLost):
            member.receive()


def test_a_rank_that_gets_on_is_waited_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each word for as long as one may be silent: a conversion that rank 0 has found done."""
    monkeypatch.setattr("triptych.engine.ranks.readiness._INTERVAL", 0.0)
    readiness = Readiness(hub, 3)
    readiness._answers = answers = Waited()
    one, two = joined(hub)
    two.send(Ready())
    with ToldProgress(one.send).task("Converting", None) as advance:
        for _ in range(5):
            advance(1)
    one.send(Ready())
    readiness.wait(monotonic() - 100)
    assert len(answers.waits) == 2 + 1 + 5  # who is ready, the beginning, and how it goes on
    assert len(set(answers.waits)) == 1
    assert answers.waits[0] >= 100 + LAG


class Waited(SimpleQueue[Any]):
    """Remembers how long it was waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        assert timeout is not None
        self.waits.append(timeout)
        return super().get(block, timeout)


def test_the_loss_of_a_rank_is_not_waited_out(hub: Hub) -> None:
    readiness = Readiness(hub, 3)
    one, _ = joined(hub)
    one.give_up(MemoryError("3 GB"))
    with pytest.raises(RankLost, match="rank 1 gave up: MemoryError: 3 GB"):
        readiness.wait(monotonic())
