"""Progress bars for downloads and loads, on standard error."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class ProgressBars:
    """Shows every open task as one bar; implements the `Progress` protocol of `triptych.models`.

    Where standard error is not a terminal, it writes one line when a task begins and one when it ends.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._lock = threading.Lock()
        self._open = 0
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    @contextmanager
    def task(self, title: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Opens a bar; the value adds bytes done. `total` is None when nobody can know."""
        bar = self._begin(title, total)
        try:
            yield lambda count: self._bars.advance(bar, count)
        except BaseException:
            self._end(f"{title}: failed")
            raise
        self._bars.update(bar, completed=total, total=self._bars.tasks[bar].completed if total is None else None)
        self._end(f"{title}: done")

    def _begin(self, title: str, total: int | None) -> TaskID:
        with self._lock:
            if self._open == 0:
                self._bars.start()
            self._open += 1
            self._note(f"{title} ...")
            return self._bars.add_task(title, total=total)

    def _end(self, note: str) -> None:
        with self._lock:
            self._open -= 1
            self._note(note)
            if self._open == 0:
                self._bars.stop()

    def _note(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)
