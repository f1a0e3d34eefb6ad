import io

import pytest
from rich.console import Console

from triptych.cli.progress import ProgressBars
from triptych.models.progress import Progress


def bars(*, terminal: bool) -> tuple[ProgressBars, io.StringIO]:
    screen = io.StringIO()
    return ProgressBars(Console(file=screen, force_terminal=terminal, width=120)), screen


def test_a_bar_fills_on_a_terminal() -> None:
    shown, screen = bars(terminal=True)
    progress: Progress = shown
    with progress.task("weights [1]", 4 * 2**20) as advance:
        advance(2**20)
        advance(3 * 2**20)
    assert "weights [1]" in screen.getvalue()
    assert "4.0/4.0 MiB" in screen.getvalue()


def test_a_task_of_unknown_size_ends_full() -> None:
    progress, screen = bars(terminal=True)
    with progress.task("archive", None) as advance:
        advance(3 * 2**20)
    assert "3.0/3.0 MiB" in screen.getvalue()


def test_off_a_terminal_a_task_is_two_lines() -> None:
    progress, screen = bars(terminal=False)
    with progress.task("outer", 10) as advance:
        advance(5)
        with progress.task("inner", None):
            pass
    assert screen.getvalue().splitlines() == ["outer ...", "inner ...", "inner: done", "outer: done"]


def test_a_failure_is_said_and_passed_on() -> None:
    progress, screen = bars(terminal=False)
    with pytest.raises(OSError, match="disk full"), progress.task("weights", 10):
        raise OSError("disk full")
    assert screen.getvalue().splitlines() == ["weights ...", "weights: failed"]
    with progress.task("again", 1):
        pass
    assert screen.getvalue().splitlines()[-1] == "again: done"
