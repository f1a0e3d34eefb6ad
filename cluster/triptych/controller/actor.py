"""The Ray actor around a stage worker. No token and no KV byte passes through it."""

import os
import threading
from dataclasses import dataclass

from triptych.stages.host import StageHost
from triptych.stages.settings import StageSettings


@dataclass(frozen=True, slots=True)
class Started:
    """A worker that serves.

    Attributes:
        address: "host:port" of its StageService.
        pid: Its process.
    """

    address: str
    pid: int


class StageActor:
    """Hosts one worker; `wait` ends when the process does, which is how its death is noticed.

    Args:
        settings: What to run.
    """

    def __init__(self, settings: StageSettings) -> None:
        self._settings = settings
        self._stopped = threading.Event()
        self._host: StageHost | None = None

    def start(self) -> Started:
        """Loads the model and serves."""
        self._host = StageHost(self._settings)
        return Started(self._host.start(), os.getpid())

    def wait(self) -> None:
        """Returns after `stop`."""
        self._stopped.wait()

    def stop(self) -> None:
        """Closes streams and transfers in order."""
        if self._host:
            self._host.stop()
            self._host = None
        self._stopped.set()
