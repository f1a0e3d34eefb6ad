"""The control of an encode worker: commands and results in, actions out.

    submit ──▶ Waiting ──▶ Encoding ──▶ Held ───▶ Free
                  ╰────────────┴──────▶ Failed ─▶ Free

A job whose pictures are all there goes from Waiting to Held without a computation. An operation is known until its
Free, or the end of its session. Room for an embedding is taken when its batch begins, so that what was begun can be
kept; and it is kept for the next attempt at the same request even when nobody wants it any more.

An embedding that a reader found damaged is computed again for whoever asks from then on, also where others hold it:
to wait until they let go could take as long as their answers. The entry stays theirs, and the new bytes take the
place of the old ones in the store. A picture has the same embedding every time, so their handles are as good as
before; were it another one, its checksum would tell them.
"""

from collections.abc import Collection, Hashable, Mapping
from itertools import takewhile
from typing import Generic

from triptych.core.encoding.actions import Acknowledge, Action, Answer, Compute, Evict, Refuse
from triptych.core.encoding.audit import EncodeAudit, audit
from triptych.core.encoding.batching import Selection, select
from triptych.core.encoding.holdings import Holdings
from triptych.core.encoding.job import Batch, Encoding, Failed, Held, JobT, Operation, Waiting, session_of
from triptych.core.encoding.limits import EncodeLimits
from triptych.core.encoding.queue import JobQueue
from triptych.core.errors import DeadlineExceeded, Internal, TriptychError, Unavailable
from triptych.core.generation import OperationKey


class EncodeControl(Generic[JobT]):
    """Decides what an encode worker does. Not thread-safe.

    What a method returns is to be done, in its order, before the next call.

    Args:
        worker_id: For messages.
        limits: What there is room for.
    """

    def __init__(self, worker_id: str, limits: EncodeLimits) -> None:
        self.holdings = Holdings(limits.budget_bytes, limits.max_entries)
        self.batch: Batch[JobT] | None = None
        self.encoded_images = 0
        self.ended_batches = 0
        self._worker_id = worker_id
        self._limits = limits
        self._queue: JobQueue[JobT] = JobQueue(limits.max_waiting_images)
        self._operations: dict[OperationKey, Operation[JobT]] = {}
        self._draining = False

    @property
    def open(self) -> int:
        """Operations whose Free is still to come."""
        return len(self._operations)

    @property
    def queued_images(self) -> int:
        """Pictures of jobs that wait, each counted as often as it was sent."""
        return self._queue.images

    @property
    def next_deadline(self) -> float | None:
        """When to call `tick`: never late, sometimes early."""
        return self._queue.next_deadline

    def submit(self, job: JobT, now: float) -> list[Action[JobT]]:
        """Somebody wants embeddings; a repeated command changes nothing."""
        if known := self._operations.get(job.key):
            return [] if session_of(known) == job.session else [Refuse(job, _taken(job.key))]
        try:
            self._admit(job, now)
        except TriptychError as error:
            return [self._fail(job, error)]
        if job.anew:
            self._doubt(job)
        return self._advance(now)

    def encoded(
        self, made: Collection[str], failed: Mapping[OperationKey, TriptychError], now: float
    ) -> list[Action[JobT]]:
        """The batch under way has ended.

        Args:
            made: Content hashes of the embeddings that are there now.
            failed: Why jobs of the batch get none.
            now: The time.
        """
        batch, self.batch = self.batch, None
        if batch is None:
            raise Internal("a batch ended that had not begun")
        self.ended_batches += 1
        self.encoded_images += len(made)
        for picture in made:
            self.holdings.renew(picture)
        missing = frozenset(batch.pictures).difference(made)
        wanted = [job for job in batch.jobs if isinstance(self._operations.get(job.key), Encoding)]
        actions = [self._settle(job, batch.began, missing, failed.get(job.key)) for job in wanted]
        for picture in batch.pictures:
            if picture in missing:
                actions += self._give_up(picture)
        return actions + self._advance(now)

    def free(self, key: OperationKey, session: Hashable, now: float) -> list[Action[JobT]]:
        """Gives back what the session's operation holds, and acknowledges it: also where nothing is known of it."""
        return [*self.forget(key, session, now), Acknowledge(session, key)]

    def forget(self, key: OperationKey, session: Hashable, now: float) -> list[Action[JobT]]:
        """Gives back what the session's operation holds; somebody else acknowledges it."""
        if (known := self._operations.get(key)) and session_of(known) == session:
            self._drop(key)
        return self._advance(now)

    def end_session(self, session: Hashable, now: float) -> list[Action[JobT]]:
        """A router is gone: everything it asked for is given back."""
        for key in [key for key, known in self._operations.items() if session_of(known) == session]:
            self._drop(key)
        return self._advance(now)

    def drain(self) -> None:
        """From now on every new operation is refused; what is open goes on."""
        self._draining = True

    def tick(self, now: float) -> list[Action[JobT]]:
        """Refuses what has waited for too long; may be called at any time."""
        late = self._expire(now)
        return late + self._advance(now) if late else []

    def audit(self) -> EncodeAudit:
        """Who is where, and holds what."""
        batch = [job.key for job in self.batch.jobs] if self.batch else []
        return audit(self._operations, self._queue, batch, self.holdings.audit())

    def _admit(self, job: JobT, now: float) -> None:
        if self._draining:
            raise Unavailable(f"worker {self._worker_id} is draining")
        if job.deadline is not None and now >= job.deadline:
            raise _late()
        self._limits.require_room(job)
        self._queue.put(job)
        self._operations[job.key] = Waiting(job)

    def _doubt(self, job: JobT) -> None:
        """Nobody is answered from what is kept; what is being made now is not what the reader has read."""
        for picture in job.pictures:
            if not self.batch or picture not in self.batch.pictures:
                self.holdings.doubt(picture)

    def _give_up(self, picture: str) -> list[Action[JobT]]:
        """A batch made no embedding of a picture: others may hold a doubted one, otherwise nothing stays."""
        if self.holdings.holds(picture):
            return []
        stored = not self.holdings.intact(picture)
        self.holdings.discard(picture)
        return [Evict(picture)] if stored else []

    def _expire(self, now: float) -> list[Action[JobT]]:
        return [self._fail(job, _late()) for job in self._queue.expired(now)]

    def _advance(self, now: float) -> list[Action[JobT]]:
        """Begins a batch if none is under way, and answers whoever needs none."""
        if not self._queue:
            return []
        if self.batch:
            return self._answer_first(self.batch)
        late = self._expire(now)
        selection = select(self._queue, self.holdings)
        found = [self._find(job) for job in selection.found]
        return late + found + self._begin(selection, now) if selection.jobs else late + found

    def _answer_first(self, batch: Batch[JobT]) -> list[Action[JobT]]:
        """Jobs whose pictures are all there need not wait for the batch, as long as nobody waits in front of them."""

        def ready(job: JobT) -> bool:
            return all(self.holdings.intact(picture) and picture not in batch.pictures for picture in job.pictures)

        return [self._find(job) for job in tuple(takewhile(ready, self._queue))]

    def _begin(self, selection: Selection[JobT], now: float) -> list[Action[JobT]]:
        evicted: list[str] = []
        for job in selection.jobs:
            self._queue.remove(job)
            self._operations[job.key] = Encoding(job)
            self._hold_known(job)
        for job in selection.jobs:  # now that nothing goes that one of them needs
            for picture, size in job.size_of.items():
                if picture not in self.holdings:
                    evicted += self.holdings.add(picture, size, job.key)
            self._hold_known(job)
        self.batch = Batch(selection.jobs, selection.pictures, now)
        return [*(Evict(picture) for picture in evicted), Compute(self.batch)]

    def _hold_known(self, job: JobT) -> None:
        for picture in job.pictures:
            if picture in self.holdings:
                self.holdings.hold(picture, job.key)

    def _find(self, job: JobT) -> Action[JobT]:
        self._queue.remove(job)
        self._hold_known(job)
        return self._answer(job, None)

    def _settle(self, job: JobT, began: float, missing: frozenset[str], error: TriptychError | None) -> Action[JobT]:
        if error is None and not missing.isdisjoint(job.pictures):
            error = Internal("an image has no embedding after its batch")
        return self._fail(job, error) if error else self._answer(job, began)

    def _answer(self, job: JobT, began: float | None) -> Action[JobT]:
        self._operations[job.key] = Held(job.session, job.pictures)
        return Answer(job, began)

    def _fail(self, job: JobT, error: TriptychError) -> Action[JobT]:
        self._operations[job.key] = Failed(job.session)
        self.holdings.release(job.key)
        return Refuse(job, error)

    def _drop(self, key: OperationKey) -> None:
        operation = self._operations.pop(key)
        if isinstance(operation, Waiting):
            self._queue.remove(operation.job)
        self.holdings.release(key)


def _late() -> TriptychError:
    return DeadlineExceeded("the deadline passed")


def _taken(key: OperationKey) -> TriptychError:
    return Unavailable(f"attempt {key.epoch} at request {key.request_id} is another router's")
