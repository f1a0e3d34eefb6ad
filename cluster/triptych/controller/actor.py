"""The Ray actor around a stage worker. No token and no KV byte passes through it."""

import os
from dataclasses import dataclass, replace
from typing import Any

from triptych.models.files import ModelFiles
from triptych.models.resolve import resolve
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
    """Hosts one worker; `wait` ends when the worker or its process does, which is how its death is noticed.

    Args:
        settings: What to run.
        joined: Whether Ray's nodes are other machines too; then the worker listens on its node's address, and finds
            the model by name where the files are not at the same place.
    """

    def __init__(self, settings: StageSettings, *, joined: bool) -> None:
        self._settings = settings
        self._joined = joined
        self._host: StageHost | None = None

    def start(self) -> Started:
        """Loads the model and serves."""
        self._host = StageHost(_at_home(self._settings) if self._joined else self._settings)
        return Started(self._host.start(), os.getpid())

    def wait(self) -> None:
        """Returns when the worker serves no longer."""
        if self._host:
            self._host.ended.result()

    def stop(self) -> None:
        """Closes streams and transfers in order."""
        if self._host:
            self._host.stop()
            self._host = None


def _at_home(settings: StageSettings) -> StageSettings:
    """The settings as they are on the node that this process runs on."""
    import ray

    node: Any = ray.util
    files: ModelFiles = settings.files if settings.files.path.exists() else resolve(settings.files.name)
    return replace(settings, files=files, host=node.get_node_ip_address())
