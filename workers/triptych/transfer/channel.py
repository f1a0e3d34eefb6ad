"""One destination of a sender: a queue, a thread, and a link that is opened when there is something to send."""

import copy
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

from triptych.core.errors import Cancelled, DataLoss, Internal, TriptychError, Unavailable
from triptych.transfer.backend import Timeouts
from triptych.transfer.frames import Hello, Refusal
from triptych.transfer.link import Job, Link
from triptych.transfer.pages import Pages
from triptych.transfer.stats import TransferCounts, TransferStats

_log = logging.getLogger(__name__)
# A chunk outlives this many lost connections.
_MAX_LOSSES = 1


class Channel:
    """Sends jobs to one address, one at a time and in order.

    Args:
        first: Its first job.
        address: "host:port" of the transfer server.
        pages: The sender's pool.
        hello: What the sender says of itself.
        timeouts: Patience; `fence` bounds how long a stalled receiver can delay `cancel`.
        idle_s: Seconds without work after which the channel retires.
        stats: Where to count.
    """

    def __init__(
        self,
        first: Job,
        address: str,
        pages: Pages,
        hello: Hello,
        timeouts: Timeouts,
        idle_s: float,
        stats: TransferStats,
    ) -> None:
        self._address = address
        self._pages = pages
        self._hello = hello
        self._timeouts = timeouts
        self._idle_s = idle_s
        self._stats = stats
        self._changed = threading.Condition()
        self._queue: deque[Job] = deque((first,))
        self._flying: Job | None = None
        self._retired = False
        self._link: Link | None = None
        self._thread = threading.Thread(target=self._run, name=f"transfer-send-{address}", daemon=True)
        self._thread.start()

    @property
    def retired(self) -> bool:
        """Whether the channel takes no more jobs."""
        return self._retired

    def put(self, job: Job) -> bool:
        """Queues a job; False when the channel has retired."""
        with self._changed:
            if self._retired:
                return False
            self._queue.append(job)
            self._changed.notify_all()
            return True

    def cancel(self, ticket_id: str) -> None:
        """Drops the ticket's jobs; when this returns, none of them is sent any more."""
        self._abandon(lambda job: job.ticket_id == ticket_id, f"the transfer of ticket {ticket_id} was cancelled")

    def shutdown(self) -> None:
        """Drops every job and joins the thread; idempotent."""
        with self._changed:
            self._retired = True
            self._changed.notify_all()
        self._abandon(lambda job: True, "the KV sender was shut down")
        self._cut()
        self._thread.join()

    def _abandon(self, concerned: Callable[[Job], bool], reason: str) -> None:
        with self._changed:
            dropped = self._drop(concerned)
            flying = self._flying if self._flying is not None and concerned(self._flying) else None
            if flying is not None:
                flying.cancelled = True
        _fail(dropped, Cancelled(reason))
        if flying is None:
            return
        with self._changed:
            if not self._changed.wait_for(lambda: self._flying is not flying, self._timeouts.fence):
                self._cut()
                self._changed.wait_for(lambda: self._flying is not flying)

    def _drop(self, concerned: Callable[[Job], bool]) -> list[Job]:
        with self._changed:
            dropped = [job for job in self._queue if concerned(job)]
            self._queue = deque(job for job in self._queue if not concerned(job))
            return dropped

    def _run(self) -> None:
        while self._wait_for_work():
            try:
                link = self._linked()
                job = self._take()
                if job is not None:
                    self._deliver(link, job)
            except TriptychError as error:
                self._unlink()
                _fail(self._drop(lambda job: True), error)
        self._unlink()

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._retired, self._idle_s)
            self._retired = self._retired or not self._queue
            return not self._retired

    def _take(self) -> Job | None:
        with self._changed:
            self._flying = self._queue.popleft() if self._queue else None
            return self._flying

    def _deliver(self, link: Link, job: Job) -> None:
        try:
            outcome = link.transfer(job)
        except Unavailable as error:
            self._unlink()
            _fail(self._lost(job), Cancelled(error.message) if job.cancelled else error)
        except TriptychError as error:
            self._land()
            _fail([job, *self._behind(job)], error)
        except Exception as error:
            _log.exception("sending a KV chunk failed")
            self._unlink()
            self._land()
            _fail([job, *self._behind(job)], Internal(f"sending a KV chunk failed: {error}"))
        else:
            self._land()
            if isinstance(outcome, Refusal):
                _fail([job, *self._behind(job)], _refused(outcome))
            else:
                job.future.set_result(outcome)

    def _lost(self, job: Job) -> list[Job]:
        """The jobs that fail because the connection was lost under `job`; the others wait for a new one."""
        with self._changed:
            self._land()
            if job.cancelled or self._retired:
                return [job]
            if job.losses == _MAX_LOSSES:
                return [job, *self._drop(lambda other: True)]
            job.losses += 1
            self._queue.appendleft(job)
            self._stats.add(TransferCounts(reconnects=1))
            return []

    def _behind(self, job: Job) -> list[Job]:
        """Later chunks of the ticket, which would be out of order."""
        return self._drop(lambda other: other.ticket_id == job.ticket_id)

    def _land(self) -> None:
        with self._changed:
            self._flying = None
            self._changed.notify_all()

    def _linked(self) -> Link:
        if self._link is not None:
            return self._link
        link = Link(self._address, self._pages, self._timeouts, self._stats)
        with self._changed:
            self._link = link
            if self._retired:
                raise Cancelled("the KV sender was shut down")
        link.greet(self._hello)
        return link

    def _unlink(self) -> None:
        with self._changed:
            if self._link is not None:
                self._link.close()
            self._link = None

    def _cut(self) -> None:
        with self._changed:
            if self._link is not None:
                self._link.cut()


def _fail(jobs: Iterable[Job], error: TriptychError) -> None:
    # Each its own copy: whoever gets one may write a request id into it.
    for job in jobs:
        job.future.set_exception(copy.copy(error))


def _refused(refusal: Refusal) -> TriptychError:
    """Whatever a receiver has against a chunk, it has nothing against the request: with another ticket it may go."""
    kind = DataLoss if refusal.code == DataLoss.code else Unavailable
    return kind(refusal.message)
