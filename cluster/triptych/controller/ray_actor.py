"""A handle to one `StageActor` in Ray."""

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any, cast

from triptych.controller.actor import Running, Started
from triptych.core.errors import TriptychError, Unavailable

START_SECONDS = 600.0
STOP_SECONDS = 10.0
ANSWER_SECONDS = 5.0


class RayActor:
    """See `Actor`.

    Args:
        ray: The module.
        handle: Ray's.
        worker_id: Whose actor it is.
    """

    def __init__(self, ray: Any, handle: Any, worker_id: str) -> None:
        self._ray = ray
        self._handle = handle
        self._worker_id = worker_id

    async def start(self) -> Started:
        """See `Actor.start`."""
        return cast(Started, await self._call(self._handle.start.remote(), within=START_SECONDS))

    async def running(self) -> Running | None:
        """See `Actor.running`."""
        try:
            return cast("Running | None", await self._call(self._handle.running.remote(), within=ANSWER_SECONDS))
        except TriptychError:
            return None

    async def wait(self) -> None:
        """See `Actor.wait`."""
        with contextlib.suppress(TriptychError):
            await self._call(self._handle.wait.remote(), within=None)

    async def stop(self) -> None:
        """See `Actor.stop`."""
        with contextlib.suppress(TriptychError):
            await self._call(self._handle.stop.remote(), within=STOP_SECONDS)
        await self.kill()

    async def kill(self) -> None:
        """See `Actor.kill`. A process that stands still is gone five seconds later."""
        await asyncio.to_thread(self._ray.kill, self._handle)

    async def _call(self, reference: Awaitable[object], within: float | None) -> object:
        exceptions = self._ray.exceptions
        try:
            return await asyncio.wait_for(reference, within)
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, TriptychError):
                raise error.cause from None
            raise Unavailable(f"worker {self._worker_id} failed: {error.cause}") from error
        except exceptions.RayError as error:
            raise Unavailable(f"worker {self._worker_id} died: {str(error).splitlines()[0]}") from error
        except TimeoutError as error:
            raise Unavailable(f"worker {self._worker_id} did not answer within {within:g} seconds") from error
