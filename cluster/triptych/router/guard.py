"""Turns whatever a handler raises into a status: typed errors keep their type, anything else becomes INTERNAL."""

import logging
from types import TracebackType
from typing import Any

import grpc

from triptych.core.errors import Internal, TriptychError
from triptych.wire.status import status_from_error

logger = logging.getLogger(__name__)


class Guarded:
    """While it is open, an error aborts the call with its status; the client never sees a traceback.

    Args:
        context: Of the call.
    """

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._context = context

    async def __aenter__(self) -> None:
        """Begins to guard."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Swallows nothing: the abort is an exception too."""
        if isinstance(error, TriptychError):
            await self._context.abort_with_status(status_from_error(error))
        elif isinstance(error, Exception):
            logger.error("a handler failed", exc_info=error)
            await self._context.abort_with_status(status_from_error(Internal("the router failed; its log says how")))
