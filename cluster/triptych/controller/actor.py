"""The Ray actor around a stage worker. No token and no KV byte passes through it."""

import asyncio
import hashlib
import os
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

from triptych.models.files import ModelFiles
from triptych.models.resolve import resolve
from triptych.stages.host import StageHost
from triptych.stages.settings import StageSettings

LEAVE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Started:
    """A worker that serves.

    Attributes:
        address: "host:port" of its StageService.
        pid: Its process.
    """

    address: str
    pid: int


@dataclass(frozen=True, slots=True)
class Running:
    """A worker that serves already, as it introduces itself to a controller that finds it.

    Attributes:
        started: Where it is.
        fingerprint: Of what it runs.
    """

    started: Started
    fingerprint: str


def fingerprint(settings: StageSettings) -> str:
    """Names the settings of a worker and the version of the program that runs them."""
    return hashlib.sha256(f"{version('triptych')} {settings!r}".encode()).hexdigest()


class StageActor:
    """Hosts one worker; `wait` ends when the worker or its process does, which is how its death is noticed.

    Args:
        settings: What to run.
        joined: Whether Ray's nodes are other machines too, and outlive the controller. Then the worker listens on its
            node's address, finds the model by name where the files are not at the same place, and ends its process
            itself once it serves no longer, since nobody else may be there to do it.
    """

    def __init__(self, settings: StageSettings, *, joined: bool) -> None:
        self._settings = settings
        self._joined = joined
        self._host: StageHost | None = None
        self._started: Started | None = None
        self._stopping = asyncio.Lock()
        self._leaving: asyncio.Task[None] | None = None

    async def start(self) -> Started:
        """Loads the model and serves."""
        self._started = await asyncio.to_thread(self._launch)
        if self._joined:
            self._leaving = asyncio.create_task(self._leave())
        return self._started

    async def running(self) -> Running | None:
        """What serves here; None before and after."""
        if self._started is None or self._host is None or self._host.ended.done():
            return None
        return Running(self._started, fingerprint(self._settings))

    async def wait(self) -> None:
        """Returns when the worker serves no longer."""
        if host := self._host:
            await asyncio.wrap_future(host.ended)

    async def stop(self) -> None:
        """Closes streams and transfers in order."""
        async with self._stopping:
            host, self._host = self._host, None
            if host:
                await asyncio.to_thread(host.stop)

    def _launch(self) -> Started:
        self._host = StageHost(_at_home(self._settings) if self._joined else self._settings)
        return Started(self._host.start(), os.getpid())

    async def _leave(self) -> None:
        await self.wait()
        await self.stop()
        await asyncio.sleep(LEAVE_SECONDS)  # a controller that is there ends the actor itself
        os._exit(0)  # nothing less ends an actor from outside of its methods


def _at_home(settings: StageSettings) -> StageSettings:
    """The settings as they are on the node that this process runs on."""
    import ray

    node: Any = ray.util
    files: ModelFiles = settings.files if settings.files.path.exists() else resolve(settings.files.name)
    return replace(settings, files=files, host=node.get_node_ip_address())
