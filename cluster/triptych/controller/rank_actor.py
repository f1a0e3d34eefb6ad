"""The Ray actor around a further rank of a worker. It imports what a rank computes with, and nothing of a service."""

import asyncio
import os
import threading

from triptych.controller.home import LEAVE_SECONDS, at_home
from triptych.stages.meeting import Meeting
from triptych.stages.rank_host import RankHost
from triptych.stages.settings import StageSettings


class RankActor:
    """Hosts a further rank of a worker; `wait` ends when the rank or its process does.

    Args:
        settings: Of the worker.
        rank: Its number, from 1.
        joined: As `StageActor` has it.
    """

    def __init__(self, settings: StageSettings, rank: int, *, joined: bool) -> None:
        self._settings = settings
        self._rank = rank
        self._joined = joined
        self._host: RankHost | None = None

    async def start(self, meeting: Meeting) -> int:
        """Joins the others and loads the rank's share of the model; its process."""
        settings = at_home(self._settings, self._joined)
        self._host = await asyncio.to_thread(RankHost, settings, self._rank, meeting)
        self._host.start()
        if self._joined:
            self._host.ended.add_done_callback(lambda _: threading.Timer(LEAVE_SECONDS, os._exit, (0,)).start())
        return os.getpid()

    async def running(self) -> int | None:
        """The process; None before and after."""
        return None if self._host is None or self._host.ended.done() else os.getpid()

    async def wait(self) -> str:
        """Returns when the rank computes no longer: with the reason why it could not go on."""
        return await asyncio.wrap_future(host.ended) if (host := self._host) else ""

    async def stop(self) -> None:
        """Leaves the others."""
        if host := self._host:
            await asyncio.to_thread(host.stop)
