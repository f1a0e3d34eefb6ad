"""`SamplingParams` and its wire form. A field that is unset, or at the one default it has, is not sent."""

from dataclasses import fields
from typing import Final

from triptych.core.errors import InvalidArgument
from triptych.core.sampling import SamplingParams
from triptych.inference.v1 import sampling_pb2 as pb

_DEFAULT: Final = SamplingParams()
_SCALARS: Final = tuple(
    field.name for field in fields(SamplingParams) if field.name not in ("stop", "stop_token_ids")
)


def sampling_to_proto(params: SamplingParams) -> pb.SamplingParams:
    """The wire form, holding only what differs from the defaults.

    Raises:
        InvalidArgument: a stop text is not encodable as UTF-8.
    """
    message = pb.SamplingParams(
        stop=[_encoded(index, text) for index, text in enumerate(params.stop)],
        stop_token_ids=params.stop_token_ids,
    )
    for name in _SCALARS:
        value = getattr(params, name)
        if value != getattr(_DEFAULT, name):
            setattr(message, name, value)
    return message


def sampling_from_proto(message: pb.SamplingParams) -> SamplingParams:
    """The sampling parameters of a request; what is unset takes its default.

    Raises:
        InvalidArgument: a value is out of its limits, or `sampling.stop[i]` is not UTF-8.
    """
    scalars = {field.name: value for field, value in message.ListFields() if field.name in _SCALARS}
    return SamplingParams(
        **scalars,
        stop=tuple(_decoded(index, raw) for index, raw in enumerate(message.stop)),
        stop_token_ids=tuple(message.stop_token_ids),
    )


def _encoded(index: int, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"sampling.stop[{index}] cannot be written as UTF-8: {error.reason} at character {error.start}",
            field=f"sampling.stop[{index}]",
        ) from error


def _decoded(index: int, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(
            f"sampling.stop[{index}] is not UTF-8: {error.reason} at byte {error.start} of {len(raw)}",
            field=f"sampling.stop[{index}]",
        ) from error
