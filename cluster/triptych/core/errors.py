"""Every error that Triptych raises on purpose.

One hierarchy serves the engine, the stages, the router and the SDK: each class *is* a gRPC status code, so an error
keeps its type on its way from a worker to the caller::

    TriptychError
    ├── InvalidArgument       the request is wrong, and will be wrong again
    │   └── PromptTooLong       prompt and answer do not fit the context
    ├── NotFound              no such model, request or file
    ├── AlreadyExists         a running request has that id
    ├── FailedPrecondition    right request, wrong system: an image for a text-only model, a port in use
    ├── Unimplemented         an architecture or a feature that this version does not have
    ├── ResourceExhausted     a queue, the KV cache, the memory or a message limit is full; `retry_after` says when
    ├── Unavailable           a worker or the cluster went away; worth a retry
    ├── DataLoss              a file or a transfer is damaged
    ├── DeadlineExceeded
    ├── Cancelled
    └── Internal              a defect of ours
"""

from typing import ClassVar


class TriptychError(Exception):
    """Base class; `code` is the number of the gRPC status (google.rpc.Code).

    Args:
        message: What is wrong, in plain words, with the limit and the value.
        field: The request or configuration field at fault, as its user writes it.
        request_id: The generation that failed, once one exists.
        retry_after: Seconds after which a retry is worth making.
    """

    code: ClassVar[int] = 2
    transient: ClassVar[bool] = False
    """Whether the same request may succeed on another worker: the worker or the way to it was at fault."""

    def __init__(
        self, message: str, *, field: str = "", request_id: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.request_id = request_id
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[object, ...]:
        """Pickles with its keywords, because Ray carries errors between processes."""
        return _rebuild, (type(self), self.message, self.field, self.request_id, self.retry_after)


class Cancelled(TriptychError):
    """The caller gave the request up."""

    code = 1


class InvalidArgument(TriptychError):
    """The request itself is wrong."""

    code = 3


class PromptTooLong(InvalidArgument):
    """Prompt and answer do not fit the context."""


class DeadlineExceeded(TriptychError):
    """The caller's deadline passed."""

    code = 4


class NotFound(TriptychError):
    """No such model, request or file."""

    code = 5


class AlreadyExists(TriptychError):
    """The id is taken by a running request."""

    code = 6


class ResourceExhausted(TriptychError):
    """Something bounded is full."""

    code = 8


class FailedPrecondition(TriptychError):
    """The system is not in a state to do this."""

    code = 9


class Unimplemented(TriptychError):
    """This version cannot do that."""

    code = 12


class Internal(TriptychError):
    """A defect of ours."""

    code = 13
    transient = True


class Unavailable(TriptychError):
    """A worker or the cluster cannot be reached."""

    code = 14
    transient = True


class DataLoss(TriptychError):
    """A file or a transfer is damaged."""

    code = 15
    transient = True


_BY_CODE: dict[int, type[TriptychError]] = {
    kind.code: kind
    for kind in (
        Cancelled,
        InvalidArgument,
        DeadlineExceeded,
        NotFound,
        AlreadyExists,
        ResourceExhausted,
        FailedPrecondition,
        Unimplemented,
        Internal,
        Unavailable,
        DataLoss,
    )
}


def error_class(code: int) -> type[TriptychError]:
    """The class for a gRPC status code; `TriptychError` for a code that has none."""
    return _BY_CODE.get(code, TriptychError)


def _rebuild(
    kind: type[TriptychError], message: str, field: str, request_id: str, retry_after: float | None
) -> TriptychError:
    return kind(message, field=field, request_id=request_id, retry_after=retry_after)


def describe(error: BaseException) -> str:
    """An error in a line: what was foreseen in its own words, a defect with its class."""
    return error.message if isinstance(error, TriptychError) else f"{type(error).__name__}: {error}"
