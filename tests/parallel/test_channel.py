"""The control channel between rank 0 and its followers, over real sockets."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
import pytest

from triptych.parallel import RankLost
from triptych.parallel.channel import Hub, Member
from triptych.parallel.channel.entrance import Welcome
from triptych.parallel.channel.member import Heartbeat

_WITHIN = 60.0


@dataclass(frozen=True, slots=True)
class Note:
    text: str


@dataclass(frozen=True, slots=True)
class Rows:
    values: np.ndarray


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub(3)
    yield made
    made.close()


def _join(hub: Hub, ranks: tuple[int, ...] = (1, 2)) -> list[Member]:
    members = [Member(hub.address, hub.key, rank) for rank in ranks]
    hub.gather(_WITHIN)
    return members


def _reason(hub: Hub) -> "Future[RankLost]":
    future: Future[RankLost] = Future()
    hub.on_lost(future.set_result)
    return future


def test_every_follower_receives_in_one_order(hub: Hub) -> None:
    members = _join(hub)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: hub.send(Note(str(i))), range(200)))
    one, two = ([member.receive() for _ in range(200)] for member in members)
    assert one == two
    assert {note.text for note in one if isinstance(note, Note)} == {str(i) for i in range(200)}


def test_a_message_goes_to_some_ranks_only(hub: Hub) -> None:
    one, two = _join(hub)
    hub.send(Note("for one"), [1])
    hub.send(Note("for both"))
    assert [one.receive(), one.receive(), two.receive()] == [Note("for one"), Note("for both"), Note("for both")]


def test_followers_answer_by_kind(hub: Hub) -> None:
    notes: SimpleQueue[tuple[int, Note]] = SimpleQueue()
    rows: SimpleQueue[tuple[int, Rows]] = SimpleQueue()
    hub.subscribe(Note, lambda rank, note: notes.put((rank, note)))
    hub.subscribe(Rows, lambda rank, values: rows.put((rank, values)))
    one, two = _join(hub)
    one.send(Note("a"))
    one.send(Note("b"))
    two.send(Rows(np.arange(3)))
    assert [notes.get(timeout=_WITHIN) for _ in range(2)] == [(1, Note("a")), (1, Note("b"))]
    rank, answer = rows.get(timeout=_WITHIN)
    assert (rank, answer.values.tolist()) == (2, [0, 1, 2])


def test_large_arrays_arrive_whole_and_writable(hub: Hub) -> None:
    (one, _) = _join(hub)
    sent = np.random.default_rng(3).integers(0, 255, (3, 1 << 20), dtype=np.uint8)
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(one.receive)
        hub.send(Rows(sent), [1])
        got = received.result(_WITHIN)
    assert isinstance(got, Rows)
    assert np.array_equal(got.values, sent)
    assert got.values.flags.writeable


def test_what_was_sent_before_the_end_is_received(hub: Hub) -> None:
    one, two = _join(hub)
    hub.send(Note("last"))
    hub.close()
    for member in (one, two):
        assert member.receive() == Note("last")
        with pytest.raises(RankLost, match="rank 0 has ended"):
            member.receive()
    with pytest.raises(RankLost, match="rank 0 has closed the group"):
        hub.send(Note("too late"))


@pytest.mark.parametrize(
    ("rank", "why"), [(1, "rank 1 is there already"), (3, "there are ranks 1 to 2"), (0, "ranks 1 to 2")]
)
def test_a_rank_that_does_not_belong_is_refused(hub: Hub, rank: int, why: str) -> None:
    first = Member(hub.address, hub.key, 1)
    with pytest.raises(RankLost, match=why):
        Member(hub.address, hub.key, rank)
    second = Member(hub.address, hub.key, 2)
    hub.gather(_WITHIN)
    hub.send(Note("you two"))
    assert first.receive() == second.receive() == Note("you two")


def test_a_rank_of_another_attempt_is_refused(hub: Hub) -> None:
    late = Hub(3)
    key = late.key
    late.close()
    with pytest.raises(RankLost, match="the key of another group"):
        Member(hub.address, key, 1)
    _join(hub)


def test_missing_ranks_are_named(hub: Hub) -> None:
    _join_one = Member(hub.address, hub.key, 1)
    with pytest.raises(RankLost, match=r"ranks \[2\] have not come within 0.05 s"):
        hub.gather(0.05)
    with pytest.raises(RankLost):
        _join_one.receive()


def test_nobody_listens() -> None:
    hub = Hub(2)
    hub.close()
    with pytest.raises(RankLost, match="cannot reach rank 0"):
        Member(hub.address, hub.key, 1)


def test_who_waits_for_answers_hears_of_a_close_too() -> None:
    hub = Hub(2)
    lost, ended = _reason(hub), list[RankLost]()
    hub.on_ended(ended.append)
    hub.close()
    hub.close()
    hub.on_ended(ended.append)
    assert [error.message for error in ended] == ["rank 0 has closed the group"] * 2
    assert not lost.done()


def test_a_follower_that_closes_ends_the_group_for_all(hub: Hub) -> None:
    reason = _reason(hub)
    one, two = _join(hub)
    told: Future[RankLost] = Future()
    two.on_lost(told.set_result)
    one.close()
    assert "rank 1 has closed the connection" in str(reason.result(_WITHIN))
    assert "rank 0 has ended the group" in str(told.result(_WITHIN))
    with pytest.raises(RankLost, match="rank 1 has closed"):
        hub.send(Note("to nobody"))
    late: Future[RankLost] = Future()
    hub.on_lost(late.set_result)
    assert late.done()


def test_a_follower_that_gives_up_says_why(hub: Hub) -> None:
    reason = _reason(hub)
    one, _ = _join(hub)
    one.give_up(ValueError("no memory for 3 GB"))
    assert str(reason.result(_WITHIN)) == "rank 1 gave up: ValueError: no memory for 3 GB"


def test_the_cause_is_told_and_not_its_consequence(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triptych.parallel.channel.hub._CAUSE", _WITHIN)
    one, two = _join(hub)
    one.give_up(RankLost("all_reduce failed"))
    two.give_up(ValueError("the cause"))
    assert str(hub.blame(RankLost("all_gather failed"))) == "rank 2 gave up: ValueError: the cause"


def test_a_callback_that_fails_ends_the_group(hub: Hub) -> None:
    reason = _reason(hub)
    hub.subscribe(Note, lambda rank, note: note.text.index("!"))
    one, _ = _join(hub)
    one.send(Note("?"))
    assert "rank 0 could not take a message of rank 1: ValueError: substring" in str(reason.result(_WITHIN))


def test_a_follower_subscribes_to_what_cannot_wait(hub: Hub) -> None:
    one, _ = _join(hub)
    notes: SimpleQueue[Note] = SimpleQueue()
    one.subscribe(Note, notes.put)
    hub.send(Rows(np.arange(2)))
    hub.send(Note("at once"))
    hub.send(Rows(np.arange(3)))
    received = [one.receive(), one.receive()]
    assert [len(rows.values) for rows in received if isinstance(rows, Rows)] == [2, 3]
    assert notes.get(timeout=_WITHIN) == Note("at once")


def test_a_follower_that_cannot_take_a_message_gives_up(hub: Hub) -> None:
    reason = _reason(hub)
    one, _ = _join(hub)
    one.subscribe(Note, lambda note: note.text.index("!"))
    hub.send(Note("?"))
    with pytest.raises(RankLost):
        one.receive()
    assert str(reason.result(_WITHIN)).startswith("rank 1 gave up: ValueError: substring")


class Unreadable:
    def __reduce__(self) -> tuple[type, tuple[str]]:
        return int, ("not a number",)


def test_a_follower_that_cannot_read_a_message_gives_up(hub: Hub) -> None:
    one, _ = _join(hub)
    reason = _reason(hub)
    hub.send(Unreadable(), (1,))
    with pytest.raises(RankLost):
        one.receive()
    assert "rank 1 gave up: ValueError" in reason.result(_WITHIN).message


def test_who_gives_up_frees_its_own_thread_that_waits_for_others(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscriber fails on the thread that reads, while this rank computes with others; rank 0 is slow to end it."""
    monkeypatch.setattr(Hub, "_lose", lambda hub, reason: None)
    one, _ = _join(hub)
    told: Future[RankLost] = Future()
    one.on_lost(told.set_result)
    one.subscribe(Note, lambda note: note.text.index("!"))
    hub.send(Note("?"))
    with pytest.raises(RankLost, match="this rank gave up: ValueError: substring"):
        one.receive()
    assert str(told.result(_WITHIN)) == "this rank gave up: ValueError: substring not found"
    monkeypatch.undo()


def test_who_closes_wakes_its_own_receiver(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while rank 0 keeps its end open."""
    monkeypatch.setattr(Hub, "_lose", lambda hub, reason: None)
    one, _ = _join(hub)
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(one.receive)
        one.close()
        with pytest.raises(RankLost, match="this rank has left the group"):
            received.result(_WITHIN)
    monkeypatch.undo()


def test_a_callback_that_fails_does_not_keep_the_loss_from_the_others(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = _join(hub)
    told: list[Future[RankLost]] = [Future(), Future()]
    for end, future in ((hub, told[0]), (two, told[1])):
        end.on_lost(_broken)
        end.on_lost(future.set_result)
    one.close()
    assert "rank 1 has closed the connection" in str(told[0].result(_WITHIN))
    assert "rank 0 has ended the group" in str(told[1].result(_WITHIN))
    assert caplog.text.count("could not act on the loss of a rank") == 2


def _broken(_: RankLost) -> None:
    raise ValueError("no device")


def test_a_rank_that_is_gone_before_it_is_let_in_can_come_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(patience: float) -> Welcome:
        monkeypatch.undo()
        raise BrokenPipeError("gone")

    monkeypatch.setattr("triptych.parallel.channel.hub.Welcome", broken)
    with pytest.raises(RankLost, match="before it had let rank 1 in"):
        Member(hub.address, hub.key, 1)
    _join(hub)


def test_an_idle_group_stands() -> None:
    """Rank 0 says that it runs for longer than a follower waits without a word."""
    idle = Hub(2, patience=1.0)
    member = Member(idle.address, idle.key, 1)
    idle.gather(_WITHIN)
    beats: SimpleQueue[Heartbeat] = SimpleQueue()
    member.subscribe(Heartbeat, beats.put)
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(member.receive)
        for _ in range(8):
            beats.get(timeout=_WITHIN)
        idle.send(Note("still there"))
        assert received.result(_WITHIN) == Note("still there")
    idle.close()


def test_a_rank_0_that_stands_still_is_lost_for_its_followers(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of what it sends, and of what is sent to it."""
    monkeypatch.setattr(Hub, "_keep_watch", lambda hub: None)
    monkeypatch.setattr(Hub, "_read", lambda hub, rank, link: hub._ended.wait())
    still = Hub(2, patience=1.0)
    member = Member(still.address, still.key, 1)
    still.gather(_WITHIN)
    told: Future[RankLost] = Future()
    member.on_lost(told.set_result)
    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(_flood, member)
        with pytest.raises(RankLost, match="rank 0 has been silent for 1 s"):
            member.receive()
        stuck.result(_WITHIN)
    assert str(told.result(_WITHIN)) == "rank 0 has been silent for 1 s"
    still.close()


_FOLLOWER = """
import sys
from triptych.parallel.channel import Member
member = Member((sys.argv[1], int(sys.argv[2])), bytes.fromhex(sys.stdin.readline()), 1)
member.receive()
"""


@pytest.fixture
def process() -> Iterator[tuple[Hub, "subprocess.Popen[str]"]]:
    hub = Hub(2, patience=5.0)
    host, port = hub.address
    follower = subprocess.Popen([sys.executable, "-c", _FOLLOWER, host, str(port)], stdin=subprocess.PIPE, text=True)
    assert follower.stdin
    follower.stdin.write(hub.key.hex() + "\n")
    follower.stdin.flush()
    hub.gather(60)
    yield hub, follower
    hub.close()
    follower.kill()
    follower.communicate()


def test_a_killed_process_is_lost_at_once(process: tuple[Hub, "subprocess.Popen[str]"]) -> None:
    hub, follower = process
    reason = _reason(hub)
    follower.kill()
    assert str(reason.result(_WITHIN)) == "rank 1 has closed the connection"


def test_a_stopped_process_is_lost_when_it_has_been_silent(process: tuple[Hub, "subprocess.Popen[str]"]) -> None:
    hub, follower = process
    reason = _reason(hub)
    os.kill(follower.pid, signal.SIGSTOP)
    stuck = threading.Thread(target=_flood, args=(hub,))
    stuck.start()
    assert str(reason.result(_WITHIN)) == "rank 1 has been silent for 5 s"
    stuck.join(_WITHIN)
    assert not stuck.is_alive()


def _flood(end: Hub | Member) -> None:
    """Nobody reads: the socket fills up, and the loss must wake the writer."""
    with pytest.raises(RankLost):
        end.send(Rows(np.zeros(1 << 26, dtype=np.uint8)))
