"""How long work reports itself: downloads, conversions and loads, counted in bytes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]


class Progress(Protocol):
    """Shows tasks; a progress bar implements it in a few lines."""

    def task(self, title: str, total: int | None) -> AbstractContextManager[Advance]:
        """Opens one task.

        Args:
            title: What is being done, for people.
            total: Bytes to do; None when nobody can know.

        Returns:
            A context whose value adds bytes done; leaving it ends the task, whatever was counted.
        """


class _Silent:
    @contextmanager
    def task(self, title: str, total: int | None) -> Iterator[Advance]:
        yield lambda count: None


SILENT: Progress = _Silent()
