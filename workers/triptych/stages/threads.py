"""Threads that a worker cannot do without."""

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)


class VitalThread:
    """Runs until its work returns. If the work raises, the worker has to end: half a worker answers nobody.

    Args:
        name: For logs and debuggers.
        work: What to run.
    """

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self._name = name
        self._work = work
        self._thread: threading.Thread | None = None

    def start(self, on_crash: Callable[[Exception], None]) -> None:
        """Begins; `on_crash` is called, on the thread, with what the work raises."""
        self._thread = threading.Thread(target=self._run, args=(on_crash,), name=self._name, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Waits for the end; not at all for a thread that was never started."""
        if self._thread:
            self._thread.join()

    def _run(self, on_crash: Callable[[Exception], None]) -> None:
        try:
            self._work()
        except Exception as error:
            logger.exception("thread %s failed", self._name)
            on_crash(error)
