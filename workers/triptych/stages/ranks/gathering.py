"""Several futures as one."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any


def all_of(futures: "Sequence[Future[Any]]") -> "Future[None]":
    """A future that is done when all of these are, or as soon as one has failed: then with its error."""
    if not futures:
        return outcome(lambda: None)
    together: Future[None] = Future()
    together.set_running_or_notify_cancel()
    lock, waiting = threading.Lock(), [len(futures)]

    def ended(one: "Future[Any]") -> None:
        error = one.exception()
        with lock:
            over = waiting[0] > 0 and (error is not None or waiting[0] == 1)
            waiting[0] = 0 if over else waiting[0] - 1
        if over:
            _settle(together, error)

    for future in futures:
        future.add_done_callback(ended)
    return together


def failed(error: Exception) -> "Future[None]":
    """A future that has failed already."""
    future: Future[None] = Future()
    future.set_exception(error)
    return future


def outcome(call: "Callable[..., object]", *arguments: object) -> "Future[None]":
    """What comes of a call that is made now, as a future that is done."""
    future: Future[None] = Future()
    try:
        call(*arguments)
    except Exception as error:
        _settle(future, error)
    else:
        _settle(future, None)
    return future


def _settle(future: "Future[None]", error: BaseException | None) -> None:
    if error:
        future.set_exception(error)
    else:
        future.set_result(None)
