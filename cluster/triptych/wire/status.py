"""`TriptychError` and its wire form: a gRPC status with google.rpc details (AIP-193).

BadRequest names the field, RetryInfo says when to come back, RequestInfo carries the request id, and
ErrorInfo names a class that shares its status code with a more general one.
"""

import datetime
from collections.abc import Iterable
from typing import Final, TypeVar, cast

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from triptych.core.errors import PromptTooLong, TriptychError, error_class
from triptych.wire.transport import transport_error

D = TypeVar("D", bound=Message)

_DOMAIN: Final = "triptych"
_DETAILS_KEY: Final = "grpc-status-details-bin"
# A status travels in HTTP/2 trailers, its message twice and percent-encoded; gRPC refuses more than 8 KiB.
_MAX_MESSAGE_BYTES: Final = 1000
_MAX_NAME_BYTES: Final = 512
_REFINED: Final[dict[str, type[TriptychError]]] = {"PROMPT_TOO_LONG": PromptTooLong}
_REASONS: Final = {kind: reason for reason, kind in _REFINED.items()}


def reason_of(error: TriptychError) -> str:
    """Names the error's class where its status code does not; empty otherwise."""
    return _REASONS.get(type(error), "")


def class_for(code: int, reason: str) -> type[TriptychError]:
    """The class of an error with that status code and `reason_of`."""
    return _REFINED.get(reason) or error_class(code)


def status_from_error(error: TriptychError) -> grpc.Status:
    """What a servicer hands to `context.abort_with_status`."""
    rich = status_pb2.Status(code=error.code, message=_bounded(error.message, _MAX_MESSAGE_BYTES))
    for detail in _details(error):
        packed = any_pb2.Any()
        packed.Pack(detail)
        rich.details.append(packed)
    return rpc_status.to_status(rich)


def error_from_rpc(error: grpc.RpcError, *, address: str, request_id: str = "") -> TriptychError:
    """The error that the other side raised, or a plain sentence for a failure of the transport.

    Args:
        error: What a sync or asyncio call raised.
        address: The server's, for the sentence.
        request_id: Stands in when the status names none.
    """
    rich = _rich_status(error)
    if rich is None:
        return transport_error(error, address, request_id)
    violations = _detail(rich, error_details_pb2.BadRequest).field_violations
    retry = _detail(rich, error_details_pb2.RetryInfo)
    delay = retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None
    info = _detail(rich, error_details_pb2.ErrorInfo)
    return class_for(rich.code, info.reason if info.domain == _DOMAIN else "")(
        rich.message,
        field=violations[0].field if violations else "",
        request_id=_detail(rich, error_details_pb2.RequestInfo).request_id or request_id,
        retry_after=delay,
    )


def is_answer(error: grpc.RpcError) -> bool:
    """Whether the other side raised this error; otherwise the transport made it."""
    return _rich_status(error) is not None


def _details(error: TriptychError) -> list[Message]:
    details: list[Message] = []
    if error.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=_bounded(error.field, _MAX_NAME_BYTES))
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromTimedelta(datetime.timedelta(seconds=error.retry_after))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if error.request_id:
        details.append(error_details_pb2.RequestInfo(request_id=_bounded(error.request_id, _MAX_NAME_BYTES)))
    if reason := reason_of(error):
        details.append(error_details_pb2.ErrorInfo(reason=reason, domain=_DOMAIN))
    return details


def _detail(rich: status_pb2.Status, kind: type[D]) -> D:
    """The first detail of that kind; an empty one when there is none."""
    detail = kind()
    for packed in rich.details:
        if packed.Unpack(detail):
            break
    return detail


def _bounded(text: str, limit: int) -> str:
    raw = text.encode(errors="replace")
    return raw.decode() if len(raw) <= limit else raw[: limit - 3].decode(errors="ignore") + "…"


def _rich_status(error: grpc.RpcError) -> status_pb2.Status | None:
    metadata = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    for key, value in metadata:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None
