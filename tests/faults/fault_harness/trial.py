"""One cluster under one fault after another: every time the same questions, and every time the same answers."""

import math
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from fault_harness.cluster import FaultyCluster, eventually, wait_ready
from fault_harness.recovery import Recovery
from fault_harness.traps import Deed, Point
from fault_harness.workload import Question, Told, ask_all

from triptych.client import Client

POLL_SECONDS = 0.005
STUCK_SECONDS = 75.0
ASKINGS = 8
"""After so many a worker that has never come to a point of its work will not."""


@dataclass
class Moment:
    """When something was seen; None until then."""

    at: float | None = None


@dataclass(frozen=True)
class Trial:
    """A cluster and what it answers when nobody disturbs it.

    Attributes:
        note: Takes what was measured.
    """

    cluster: FaultyCluster
    questions: list[Question]
    undisturbed: list[Told]
    note: Callable[[Recovery], None]

    @classmethod
    def begin(cls, cluster: FaultyCluster, questions: list[Question], note: Callable[[Recovery], None]) -> "Trial":
        """Asks in peace."""
        undisturbed = undisturbed_answers(cluster.client, questions)
        cluster.require_idle()
        return cls(cluster, questions, undisturbed, note)

    def under(self, name: str, worker_id: str, point: Point, deed: Deed, *, after: int = 0) -> None:
        """All questions, until a worker dies at a point of its work; answers as ever, and nothing is left behind."""
        before = self.cluster.worker(worker_id)
        pid = self.cluster.arm(worker_id, point, deed, after=after)
        with watch(lambda: not _runs(pid)) as died:
            told = self.ask_until(lambda: not _runs(pid), f"{worker_id} comes to: {point}")
        assert died.at is not None
        self.finish(name, told, died.at)
        now = self.cluster.worker(worker_id)
        assert now.pid != pid
        assert now.incarnation != before.incarnation
        assert now.restarts == before.restarts + 1

    def while_stopped(
        self, name: str, worker_id: str, point: Point, wake: Callable[[], object], *, after: int
    ) -> int:
        """All questions, until a worker stands still from a point of its work until `wake` returns; its process."""
        pid = self.cluster.arm(worker_id, point, Deed.STOP, after=after)

        def hold() -> bool:
            if psutil.Process(pid).status() != psutil.STATUS_STOPPED:
                return False
            stopped.at = time.monotonic()
            wake()
            os.kill(pid, signal.SIGCONT)
            return True

        stopped = Moment()
        with watch(hold):
            told = self.ask_until(lambda: stopped.at is not None, f"{worker_id} comes to: {point}")
        assert stopped.at is not None
        self.cluster.disarm(pid)
        self.finish(name, told, stopped.at)
        return pid

    def with_transfers(self, worker_id: str, point: Point, deed: Deed, *, times: int) -> int:
        """All questions, until `times` transfers through a worker went wrong; how many attempts were begun anew."""
        before = self.cluster.client.status().router.replays
        pid = self.cluster.arm(worker_id, point, deed, times=times)
        self.ask_until(lambda: self.cluster.sprung(pid) == times, f"{worker_id} comes {times} times to: {point}")
        self.cluster.disarm(pid)
        self.cluster.require_idle()
        assert self.cluster.worker(worker_id).pid == pid, "a damaged transfer has cost a worker"
        return self.cluster.client.status().router.replays - before

    def ask_until(self, happened: Callable[[], bool], what: str) -> list[Told]:
        """All questions, until it has happened: who gets which, and what of it is cached, is up to the cluster.

        Returns:
            The answers among which it happened.
        """
        workers: list[list[tuple[str, ...]]] = []
        for _ in range(ASKINGS):
            told = self.ask_again()
            if happened():
                return told
            workers.append([t.workers for t in told])
        raise AssertionError(f"it did not happen in {ASKINGS} askings that {what}; who worked: {workers}")

    def ask_again(self) -> list[Told]:
        """All questions at once; every answer is the one of the undisturbed run."""
        stuck: list[dict[str, Any]] = []
        overdue = threading.Timer(STUCK_SECONDS, lambda: stuck.append(self.cluster.held()))
        overdue.start()
        told = ask_all(self.cluster.client, self.questions)
        overdue.cancel()
        require_same(self.undisturbed, told, f"held after {STUCK_SECONDS:g} s: {stuck}\n{self.cluster.log()[-4000:]}")
        return told

    def finish(self, name: str, told: list[Told], moment: float, hit: list[Told] | None = None) -> None:
        """Waits until every worker is there and nothing is held; notes what the clients have seen of it.

        Args:
            name: The fault.
            told: What all clients have been told.
            moment: Of the fault.
            hit: Whom it concerned; those whose requests were begun anew where nothing is given.
        """
        wait_ready(self.cluster.client)
        ready = time.monotonic() - moment
        self.cluster.require_idle()
        hit = hit or [t for t in told if t.usage and t.usage.replays]
        self.note(recovery_of(name, self.undisturbed, told, hit, moment, ready))


def recovery_of(
    name: str, undisturbed: list[Told], told: list[Told], hit: list[Told], moment: float, ready: float
) -> Recovery:
    """What clients have seen of a fault at `moment`; arguments as in `Trial.finish` and `Recovery`."""
    assert hit, "nobody was disturbed"
    waits = [wait for t in hit if (wait := t.next_after(moment)) is not None] or [math.nan]  # seen too late
    return Recovery(
        name,
        len(told),
        sum(t.usage.replays for t in told if t.usage),
        statistics.median(waits),
        max(waits),
        max(t.pause for t in told),
        max(t.pause for t in undisturbed),
        ready,
    )


def undisturbed_answers(client: Client, questions: list[Question]) -> list[Told]:
    """What the questions are answered when nothing fails: each token as the offline engine has it."""
    undisturbed = ask_all(client, questions)
    wrong = [
        f"question {index}: {told.error!r}; {_first_difference(told.question.answer, told.tokens)}; {told}"
        for index, told in enumerate(undisturbed)
        if told.error or tuple(told.tokens) != told.question.answer
    ]
    assert not wrong, "\n".join(wrong)
    return undisturbed


def require_same(undisturbed: list[Told], told: list[Told], more: str = "") -> None:
    """Every answer token by token, its text and its end; `more` is said where one is wrong."""
    wrong = [
        f"question {index}: {now.error!r}; {_first_difference(then.tokens, now.tokens)}; by {now.workers}"
        for index, (then, now) in enumerate(zip(undisturbed, told, strict=True))
        if now.error or now.answer != then.answer
    ]
    assert not wrong, "\n".join([*wrong, more])
    for now in told:
        assert now.usage is not None
        assert now.usage.completion_tokens == len(now.tokens)


def _first_difference(then: Sequence[int], now: Sequence[int]) -> str:
    for place, (old, new) in enumerate(zip(then, now, strict=False)):
        if old != new:
            return f"token {place} of {len(then)} is {new} and was {old}"
    return f"{len(now)} tokens of {len(then)}, all the same"


@contextmanager
def watch(seen: Callable[[], bool]) -> Iterator[Moment]:
    """Looks for something beside the block; its moment."""
    moment, ended = Moment(), threading.Event()

    def look() -> None:
        over = False
        while not over:  # and once more at the end
            over = ended.wait(POLL_SECONDS)
            if seen():
                moment.at = time.monotonic()
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield moment
    finally:
        ended.set()
        thread.join()


def wait_until(condition: Callable[[], object], within: float) -> Callable[[], None]:
    """Something to wait for, as `while_stopped` takes it."""
    return lambda: eventually(condition, within)


def _runs(pid: int) -> bool:
    """Whether the process lives; one that its parent has not fetched yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
