"""A handle to one actor of a worker in Ray: to its `StageActor`, or to one of its `RankActor`s."""

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
        name: Whose actor it is, for messages.
    """

    def __init__(self, ray: Any, handle: Any, name: str) -> None:
        self.handle = handle
        self._ray = ray
        self._name = name

    async def start(self) -> Started:
        """See `Actor.start`."""
        return cast(Started, await self.call(self.handle.start.remote(), within=START_SECONDS))

    async def running(self) -> Running | None:
        """See `Actor.running`."""
        try:
            return cast("Running | None", await self.call(self.handle.running.remote(), within=ANSWER_SECONDS))
        except TriptychError:
            return None

    async def wait(self) -> str:
        """See `Actor.wait`."""
        try:
            return cast(str, await self.call(self.handle.wait.remote(), within=None))
        except TriptychError as error:
            return error.message

    async def stop(self) -> None:
        """See `Actor.stop`."""
        await self.close()
        await self.kill()

    async def close(self) -> None:
        """Has it end its work in order, if it answers."""
        with contextlib.suppress(TriptychError):
            await self.call(self.handle.stop.remote(), within=STOP_SECONDS)

    async def kill(self) -> None:
        """See `Actor.kill`. A process that stands still is gone five seconds later."""
        await asyncio.to_thread(self._ray.kill, self.handle)

    async def call(self, reference: Awaitable[object], within: float | None) -> object:
        """The answer to a call of one of its methods.

        Raises:
            TriptychError: what the method has raised, or Unavailable where its process has died or does not answer.
        """
        exceptions = self._ray.exceptions
        try:
            return await asyncio.wait_for(reference, within)
        except exceptions.RayTaskError as error:
            if isinstance(error.cause, TriptychError):
                raise error.cause from None
            raise Unavailable(f"{self._name} failed: {error.cause}") from error
        except exceptions.RayError as error:
            raise Unavailable(f"{self._name} died: {str(error).splitlines()[0]}") from error
        except TimeoutError as error:
            raise Unavailable(f"{self._name} did not answer within {within:g} seconds") from error
