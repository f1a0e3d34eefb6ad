"""A function in a process of its own: what it keeps in memory is its own, and ends with it."""

from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import ParamSpec, TypeVar

from triptych.cli.bench.engine.memory import peak_bytes
from triptych.core.errors import DeadlineExceeded, Internal, TriptychError

_P = ParamSpec("_P")
_T = TypeVar("_T")


def apart(seconds: float, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Calls a function of a module in a process that is started for it and ends with it.

    Raises:
        TriptychError: the function's own.
        DeadlineExceeded: it takes longer than `seconds`; its process has been ended.
        Internal: its process ended without a result, for instance because memory ran out.
    """
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_answer, args=(there, function, args, kwargs), daemon=True)
    process.start()
    there.close()
    try:
        if not here.poll(seconds):
            raise DeadlineExceeded(f"an arm of the benchmark took longer than {seconds:.0f} s")
        found: _T | TriptychError = here.recv()
    except EOFError:
        process.join(10)
        raise Internal(f"a process of the benchmark ended with exit code {process.exitcode}, and no result") from None
    finally:
        here.close()
        process.join(10)
        if process.is_alive():
            process.kill()
            process.join(10)
    if isinstance(found, TriptychError):
        raise found
    return found


def _answer(
    to: Connection, function: Callable[..., object], args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    try:
        to.send(function(*args, **kwargs))
    except TriptychError as error:
        to.send(error)
    to.close()


def own_peak_bytes() -> int:
    """The most that was resident in this process, mapped files included.

    Of its present program alone: what the system calls the peak of a process that was started by another begins with
    what that one had.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return peak_bytes()
