"""Jobs that wait for the vision tower: first come, first served, and no more than there is a limit for."""

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic

from triptych.core.encoding.job import JobT
from triptych.core.errors import ResourceExhausted
from triptych.core.generation import OperationKey

RETRY_AFTER = 1.0
"""Seconds that a refused caller is told to wait."""


class JobQueue(Generic[JobT]):
    """Jobs in the order of their commands. Not thread-safe.

    Args:
        max_images: Pictures that may wait, each counted as often as it was sent.
    """

    def __init__(self, max_images: int) -> None:
        self.images = 0
        self._max_images = max_images
        self._jobs: OrderedDict[OperationKey, JobT] = OrderedDict()
        self._due = math.inf

    def __iter__(self) -> Iterator[JobT]:
        return iter(self._jobs.values())

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def next_deadline(self) -> float | None:
        """When to look for expired jobs: never late, early where the job has left already."""
        return self._due if self._jobs and self._due < math.inf else None

    def put(self, job: JobT) -> None:
        """Adds a job.

        Raises:
            ResourceExhausted: Too many pictures would wait.
        """
        if self.images + len(job.pictures) > self._max_images:
            raise ResourceExhausted(
                f"{self.images} images wait to be encoded and {len(job.pictures)} more would be too many; "
                f"this worker queues at most {self._max_images}",
                retry_after=RETRY_AFTER,
            )
        self._jobs[job.key] = job
        self.images += len(job.pictures)
        if job.deadline is not None:
            self._due = min(self._due, job.deadline)

    def remove(self, job: JobT) -> None:
        """Takes a job out."""
        del self._jobs[job.key]
        self.images -= len(job.pictures)

    def expired(self, now: float) -> list[JobT]:
        """Takes the jobs out whose deadline has passed."""
        if now < self._due:
            return []
        late = [job for job in self if job.deadline is not None and now >= job.deadline]
        for job in late:
            self.remove(job)
        self._due = min((job.deadline for job in self if job.deadline is not None), default=math.inf)
        return late
