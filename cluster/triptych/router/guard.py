"""Turns whatever a handler raises into a status: typed errors keep their type, anything else becomes INTERNAL."""

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc

from triptych.core.errors import Internal, TriptychError
from triptych.wire.status import status_from_error

logger = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def guarded(context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    """Aborts the call with the status of a raised error; the client never sees a traceback."""
    try:
        yield
    except TriptychError as error:
        await context.abort_with_status(status_from_error(error))
    except Exception:
        logger.exception("a handler failed")
        await context.abort_with_status(status_from_error(Internal("the router failed; its log says how")))
