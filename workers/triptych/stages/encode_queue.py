"""Pictures that wait to be encoded: first come, first served, once there is room for their embeddings."""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection

from triptych.core.generation import OperationKey
from triptych.stages.encode_batch import MAX_PICTURES, EncodeJob


class EncodeQueue:
    """Jobs in the order of their commands. Thread-safe.

    A large job is not overtaken by small ones behind it: it would wait for ever.

    Args:
        fits: Whether the embeddings of these pictures can be kept beside those that are held.
    """

    def __init__(self, fits: Callable[[Collection[str]], bool]) -> None:
        self._fits = fits
        self._jobs: deque[EncodeJob] = deque()
        self._changed = threading.Condition()
        self._closed = False

    @property
    def images(self) -> int:
        """Pictures that wait, each as often as it was sent."""
        with self._changed:
            return sum(len(job.encode.images) for job in self._jobs)

    def put(self, job: EncodeJob) -> None:
        """Adds a job."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def drop(self, holder: OperationKey) -> None:
        """Forgets a holder's jobs; whatever it held has been given back, so that others may fit now."""
        with self._changed:
            self._jobs = deque(job for job in self._jobs if job.holder != holder)
            self._changed.notify()

    def close(self) -> None:
        """Ends the waiting; idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def take(self) -> list[EncodeJob]:
        """Waits for jobs that are to be encoded together, or whose deadline has passed; none once it is closed."""
        with self._changed:
            while not self._closed:
                if leaving := self._expired() or self._batch():
                    self._jobs = deque(job for job in self._jobs if job not in leaving)
                    return leaving
                self._changed.wait(self._patience())
            return []

    def _expired(self) -> list[EncodeJob]:
        return [job for job in self._jobs if job.expired]

    def _batch(self) -> list[EncodeJob]:
        """The first jobs that have room together; at least one, and more only up to `MAX_PICTURES`."""
        batch: list[EncodeJob] = []
        pictures: frozenset[str] = frozenset()
        for job in self._jobs:
            together = pictures | job.pictures
            if (batch and len(together) > MAX_PICTURES) or not self._fits(together):
                break
            batch.append(job)
            pictures = together
        return batch

    def _patience(self) -> float | None:
        """Seconds to the first deadline."""
        deadlines = [job.deadline for job in self._jobs if job.deadline is not None]
        return min(deadlines) - time.monotonic() if deadlines else None
