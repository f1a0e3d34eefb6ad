"""Fakes for tests of what loads models."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from triptych.models.progress import Advance


@dataclass(slots=True)
class Task:
    """What one task was told: its title, its total, and bytes as they were counted."""

    title: str
    total: int | None
    counts: list[int] = field(default_factory=list)

    @property
    def done(self) -> int:
        """All bytes counted."""
        return sum(self.counts)


@dataclass(slots=True)
class RecordingProgress:
    """A Progress that remembers."""

    tasks: list[Task] = field(default_factory=list)

    @contextmanager
    def task(self, title: str, total: int | None) -> Iterator[Advance]:
        """Records one task."""
        self.tasks.append(Task(title, total))
        yield self.tasks[-1].counts.append
