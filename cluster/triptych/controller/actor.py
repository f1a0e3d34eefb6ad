"""The Ray actors around a stage worker. No token and no KV byte passes through them."""

import asyncio
import hashlib
import os
from dataclasses import dataclass, replace
from importlib.metadata import version

from triptych.controller.home import LEAVE_SECONDS, at_home
from triptych.stages.host import StageHost
from triptych.stages.meeting import Convener, Meeting
from triptych.stages.settings import StageSettings


@dataclass(frozen=True, slots=True)
class Started:
    """A worker that serves.

    Attributes:
        address: "host:port" of its StageService.
        pid: Its process, rank 0 where it has several.
        rank_pids: The processes of all ranks; empty where it is one.
    """

    address: str
    pid: int
    rank_pids: tuple[int, ...] = ()


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
    """Names the settings of a worker and the version of the program that runs them, wherever its ranks lie."""
    settings = replace(settings, balance=replace(settings.balance, nodes=1))
    return hashlib.sha256(f"{version('triptych')} {settings!r}".encode()).hexdigest()


class StageActor:
    """Hosts one worker, or rank 0 of one that has several; `wait` ends when it or its process does.

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
        self._convener: Convener | None = None
        self._started: Started | None = None
        self._stopping = asyncio.Lock()
        self._leaving: asyncio.Task[None] | None = None

    async def convene(self) -> Meeting:
        """Opens the door for the other ranks; before `start`, where there are any."""
        self._convener = Convener(self._settings.parallelism, at_home(self._settings, self._joined).host)
        return self._convener.meeting

    async def start(self) -> Started:
        """Loads the model and serves; waits for the other ranks."""
        self._started = await asyncio.to_thread(self._launch)
        if self._joined:
            self._leaving = asyncio.create_task(self._leave())
        return self._started

    async def running(self) -> Running | None:
        """What serves here; None before and after."""
        if self._started is None or self._host is None or self._host.ended.done():
            return None
        return Running(self._started, fingerprint(self._settings))

    async def wait(self) -> str:
        """Returns when the worker serves no longer: with the reason why it could not go on."""
        return await asyncio.wrap_future(host.ended) if (host := self._host) else ""

    async def stop(self) -> None:
        """Closes streams and transfers in order."""
        async with self._stopping:
            host, self._host = self._host, None
            if host:
                await asyncio.to_thread(host.stop)

    def _launch(self) -> Started:
        self._host = StageHost(at_home(self._settings, self._joined), self._convener)
        return Started(self._host.start(), os.getpid())

    async def _leave(self) -> None:
        await self.wait()
        await self.stop()
        await asyncio.sleep(LEAVE_SECONDS)  # a controller that is there ends the actor itself
        os._exit(0)  # nothing less ends an actor from outside of its methods
