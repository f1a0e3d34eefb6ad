"""A large message on a slow link takes longer than anybody may be silent; it is no silence."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from queue import SimpleQueue
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray

from triptych.parallel import RankLost
from triptych.parallel.channel import Hub, Member, frames
from triptych.parallel.channel.link import Link
from triptych.parallel.channel.watch import Watch

_PATIENCE, _WITHIN = 10.0, 60.0
_PIECES = 8
_BYTES = os.urandom(1 << 20)

Message: TypeAlias = bytes | NDArray[np.uint8]
Pass: TypeAlias = Callable[[float], None]

either = pytest.mark.parametrize(
    "message", [_BYTES, np.frombuffer(_BYTES, np.uint8)], ids=["in the pickle", "beside the pickle"]
)


@pytest.fixture
def time_passes(monkeypatch: pytest.MonkeyPatch) -> Pass:
    """Moves the clock on by some seconds, and waits until the end that watches has seen what that means."""
    now, looks, silent = [0.0], SimpleQueue[float](), Watch.silent

    def look(watch: Watch, at: float) -> int | None:
        found = silent(watch, at)
        looks.put(at)
        return found

    def passes(seconds: float) -> None:
        now[0] += seconds
        for _ in range(3):  # at the first it has stood still itself; the third comes after what it did at the second
            while looks.get(timeout=_WITHIN) < now[0]:
                pass

    monkeypatch.setattr(Watch, "silent", look)
    monkeypatch.setattr("triptych.parallel.channel.watch.BEATS", 1000)
    for end in ("hub", "member"):
        monkeypatch.setattr(f"triptych.parallel.channel.{end}.monotonic", lambda: now[0])
    return passes


def _join(hub: Hub) -> tuple[Member, list[RankLost]]:
    """A follower, and what either end loses."""
    member, lost = Member(hub.address, hub.key, 1), list[RankLost]()
    hub.gather(_WITHIN)
    hub.on_lost(lost.append)
    member.on_lost(lost.append)
    return member, lost


def _send_slowly(link: Link, message: Message, time_passes: Pass) -> None:
    """With half the patience between two pieces."""
    frame = frames.pack(message)
    rest = b"".join((frame.head, *frame.buffers))
    places = [len(rest) * piece // _PIECES for piece in range(_PIECES + 1)]
    for start, end in pairwise(places):
        piece = memoryview(rest)[start:end]
        while piece:
            piece = piece[os.write(link.connection.fileno(), piece) :]
        time_passes(_PATIENCE / 2)


@either
def test_rank_0_hears_a_follower_while_its_message_comes(
    monkeypatch: pytest.MonkeyPatch, time_passes: Pass, message: Message
) -> None:
    monkeypatch.setattr(Member, "_beat", lambda member: None)
    taken: SimpleQueue[Message] = SimpleQueue()
    with closing(Hub(2, patience=_PATIENCE)) as hub:
        hub.subscribe(type(message), lambda _, found: taken.put(found))
        member, lost = _join(hub)
        _send_slowly(member._link, message, time_passes)
        assert not lost
        assert bytes(taken.get(timeout=_WITHIN)) == _BYTES


@either
def test_a_follower_hears_rank_0_while_its_message_comes(
    monkeypatch: pytest.MonkeyPatch, time_passes: Pass, message: Message
) -> None:
    monkeypatch.setattr(Hub, "_keep_watch", lambda hub: None)
    with ThreadPoolExecutor(1) as pool, closing(Hub(2, patience=_PATIENCE)) as hub:
        member, lost = _join(hub)
        received = pool.submit(member.receive)
        _send_slowly(hub._links[1], message, time_passes)
        assert not lost
        found = received.result(_WITHIN)
    assert isinstance(found, type(message))
    assert bytes(found) == _BYTES
