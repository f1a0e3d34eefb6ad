"""Which texts are computed next, and who is told what: pure."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

from triptych.core.errors import DeadlineExceeded, ResourceExhausted, TriptychError, Unavailable
from triptych.core.generation import OperationKey
from triptych.core.texts.job import Acknowledge, Action, Answer, Batch, Refuse, TextJob

RETRY_AFTER = 1.0
"""Seconds that a refused caller is told to wait."""


@dataclass(slots=True)
class _Open:
    """A job with texts that have no vector yet.

    Attributes:
        waiting: Places of the texts that are in no batch yet, the next one last.
        missing: How many have no vector.
        began: When its first batch did.
    """

    job: TextJob
    waiting: list[int]
    missing: int
    began: float = 0.0


@dataclass(slots=True)
class TextControl:
    """Operations of one worker. First come, first served; not thread-safe.

    An operation is known from its command to its Free, so that a repetition does not begin again.

    Args:
        worker_id: For errors.
        batch_tokens: Tokens that pass the encoder together; a longer text passes alone.
        max_waiting: Texts that may wait.
    """

    worker_id: str
    batch_tokens: int
    max_waiting: int
    waiting_texts: int = 0
    waiting_tokens: int = 0
    _open: OrderedDict[OperationKey, _Open] = field(default_factory=OrderedDict)
    _sessions: dict[OperationKey, Hashable] = field(default_factory=dict)
    _draining: bool = False

    @property
    def open(self) -> int:
        """Jobs without an answer."""
        return len(self._open)

    @property
    def waiting(self) -> int:
        """Jobs of which no text has been in a batch."""
        return sum(entry.missing == len(entry.waiting) for entry in self._open.values())

    @property
    def known(self) -> int:
        """Operations that have not been freed."""
        return len(self._sessions)

    @property
    def next_deadline(self) -> float | None:
        """When to `tick` at the latest."""
        return min(
            (entry.job.deadline for entry in self._open.values() if entry.job.deadline is not None), default=None
        )

    def submit(self, job: TextJob) -> list[Action]:
        """Vectors are wanted."""
        if job.key in self._sessions:
            return []
        self._sessions[job.key] = job.session
        if self._draining:
            return [Refuse(job, Unavailable(f"worker {self.worker_id} is draining", retry_after=RETRY_AFTER))]
        if self.waiting_texts + len(job.lengths) > self.max_waiting:
            error = ResourceExhausted(
                f"{self.waiting_texts} texts wait to be embedded and {len(job.lengths)} more would be too many; "
                f"this worker queues at most {self.max_waiting}",
                retry_after=RETRY_AFTER,
            )
            return [Refuse(job, error)]
        count = len(job.lengths)
        self._open[job.key] = _Open(job, list(reversed(range(count))), count)
        self.waiting_texts += count
        self.waiting_tokens += job.tokens
        return []

    def free(self, key: OperationKey, session: Hashable) -> list[Action]:
        """They are wanted no longer; what a batch under way makes of it is dropped."""
        self._close(key)
        self._sessions.pop(key, None)
        return [Acknowledge(session, key)]

    def end_session(self, session: Hashable) -> list[Action]:
        """A router is gone, and everything that it asked for with it."""
        keys = [key for key, owner in self._sessions.items() if owner == session]
        return [action for key in keys for action in self.free(key, session)]

    def drain(self) -> None:
        """No new operation from now on."""
        self._draining = True

    def tick(self, now: float) -> list[Action]:
        """Time has passed: jobs whose deadline has come are refused."""
        late = [e.job for e in self._open.values() if e.job.deadline is not None and now >= e.job.deadline]
        for job in late:
            self._close(job.key)
        return [Refuse(job, DeadlineExceeded("the deadline passed before all texts were embedded")) for job in late]

    def next_batch(self, now: float) -> Batch | None:
        """Texts of the oldest jobs, up to the budget; None when there are none."""
        texts: list[tuple[TextJob, int]] = []
        room = self.batch_tokens
        for entry in self._open.values():
            while entry.waiting and (entry.job.lengths[entry.waiting[-1]] <= room or not texts):
                place = entry.waiting.pop()
                room -= entry.job.lengths[place]
                texts.append((entry.job, place))
                entry.began = entry.began or now
            if entry.waiting:
                break
        taken = self.batch_tokens - room
        self.waiting_texts -= len(texts)
        self.waiting_tokens -= taken
        return Batch(tuple(texts), taken, now) if texts else None

    def computed(self, batch: Batch) -> list[Action]:
        """The batch has its vectors; jobs that have all of theirs are answered."""
        answers: list[Action] = []
        for job, _ in batch.texts:
            if entry := self._open.get(job.key):
                entry.missing -= 1
                if not entry.missing:
                    del self._open[job.key]
                    answers.append(Answer(job, entry.began))
        return answers

    def failed(self, batch: Batch, error: TriptychError) -> list[Action]:
        """The batch has none, and no job of it will."""
        jobs = {job.key: job for job, _ in batch.texts if job.key in self._open}
        for key in jobs:
            self._close(key)
        return [Refuse(job, error) for job in jobs.values()]

    def _close(self, key: OperationKey) -> None:
        if entry := self._open.pop(key, None):
            self.waiting_texts -= len(entry.waiting)
            self.waiting_tokens -= sum(entry.job.lengths[place] for place in entry.waiting)
