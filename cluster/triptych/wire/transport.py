"""Plain sentences for calls that failed without reaching the other side's code."""

import re
from typing import Final

import grpc

from triptych.core.errors import (
    Cancelled,
    DeadlineExceeded,
    ResourceExhausted,
    TriptychError,
    Unavailable,
    Unimplemented,
    error_class,
)

_NEVER_CONNECTED: Final = ("failed to connect to all addresses", "errors resolving", "DNS resolution failed")
_TOO_LARGE: Final = re.compile(r"message larger than max \((\d+) vs\. (\d+)\)")


def never_connected(error: grpc.RpcError) -> bool:
    """Whether the call failed for want of a connection, so that the other side has not seen it."""
    return (error.details() or "").startswith(_NEVER_CONNECTED)


def transport_error(error: grpc.RpcError, address: str, request_id: str = "") -> TriptychError:
    """The typed error for a status that gRPC made by itself.

    Args:
        error: What a sync or asyncio call raised.
        address: The server's.
        request_id: The generation that failed, if it has an id.
    """
    code, text = error.code(), error.details() or ""
    too_large = _TOO_LARGE.search(text)
    match code:
        case grpc.StatusCode.RESOURCE_EXHAUSTED if too_large:
            size, limit = int(too_large[1]), int(too_large[2])
            message = f"the message has {size} bytes; the limit is {limit} bytes ({limit / 2**20:g} MiB)"
            return ResourceExhausted(message, request_id=request_id)
        case grpc.StatusCode.UNAVAILABLE:
            return Unavailable(f"{address} cannot be reached or went away ({text})", request_id=request_id)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"{address} did not finish before the deadline", request_id=request_id)
        case grpc.StatusCode.CANCELLED:
            return Cancelled("the request was cancelled", request_id=request_id)
        case grpc.StatusCode.UNIMPLEMENTED:
            return Unimplemented(f"{address} does not serve this call ({text})", request_id=request_id)
        case _:
            return error_class(code.value[0])(text or f"{address} failed: {code.name}", request_id=request_id)
