"""A worker's error, and its wire form between worker and router."""

from triptych.core.errors import TriptychError
from triptych.stage.v1 import stage_pb2 as pb
from triptych.wire.status import class_for, reason_of


def failed_to_proto(key: pb.OperationKey, error: TriptychError) -> pb.Failed:
    """The message for an operation that cannot go on."""
    retry_after_ms = None if error.retry_after is None else round(error.retry_after * 1000)
    return pb.Failed(
        key=key,
        code=error.code,
        message=error.message,
        field=error.field,
        retry_after_ms=retry_after_ms,
        reason=reason_of(error),
    )


def failed_from_proto(message: pb.Failed) -> TriptychError:
    """The error as the worker raised it."""
    retry_after = message.retry_after_ms / 1000 if message.HasField("retry_after_ms") else None
    return class_for(message.code, message.reason)(message.message, field=message.field, retry_after=retry_after)
