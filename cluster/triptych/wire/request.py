"""A generation request, and its wire form."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, assert_never

from triptych.core.errors import InvalidArgument
from triptych.core.inputs import ChatInput, GenerationInput, PromptInput, TextInput, TokenInput
from triptych.core.plan import Placement
from triptych.inference.v1 import inference_pb2 as pb
from triptych.wire.prompt import chat_to_proto, prompt_from_proto
from triptych.wire.sampling import sampling_from_proto, sampling_to_proto

MAX_REQUEST_ID: Final = 128

_TO_PROTO: Final = {
    Placement.ANY: pb.PLACEMENT_UNSPECIFIED,
    Placement.COLOCATED: pb.PLACEMENT_COLOCATED,
    Placement.DISAGGREGATED: pb.PLACEMENT_DISAGGREGATED,
}
_FROM_PROTO: Final = {value: placement for placement, value in _TO_PROTO.items()}


def generation_to_proto(request: GenerationInput) -> pb.GenerationInput:
    """The wire form of a request.

    Raises:
        InvalidArgument: a text is not encodable as UTF-8, a number is out of its range, or a type is wrong.
    """
    message = pb.GenerationInput(placement=_TO_PROTO[request.placement])
    with sending("sampling"):
        message.sampling.CopyFrom(sampling_to_proto(request.sampling))
    with sending("model"):
        message.model = request.model
    with sending("adapter"):
        message.adapter = request.adapter
    with sending("request_id"):
        message.request_id = request.request_id
    with sending("prompt"):
        _set_prompt(message, request.prompt)
    with sending("linger"):
        message.linger_ms = round(request.linger_seconds * 1000)
    if request.resume is not None:
        others = [pb.TokenIds(ids=ids) for ids in request.resume_others]
        message.resume.CopyFrom(pb.Resume(received_token_ids=request.resume, other_choices=others))
    return message


def require_request_id(request_id: str) -> None:
    """Refuses an id that is too long, or that a terminal could not show.

    Raises:
        InvalidArgument: names the limit and the value.
    """
    if len(request_id) > MAX_REQUEST_ID or not request_id.isprintable():
        raise InvalidArgument(
            f"request_id may have at most {MAX_REQUEST_ID} printable characters, "
            f"got {len(request_id)}: {request_id!r:.60}",
            field="request_id",
        )


def generation_from_proto(message: pb.GenerationInput) -> GenerationInput:
    """The request that a client sent.

    Raises:
        InvalidArgument: names the field, its limit and the value.
    """
    require_request_id(message.request_id)
    if message.placement not in _FROM_PROTO:
        raise InvalidArgument(f"placement {message.placement} is not known", field="placement")
    sampling = sampling_from_proto(message.sampling)
    if len(message.resume.other_choices) >= sampling.n:
        raise InvalidArgument(
            f"resume.other_choices may hold at most {sampling.n - 1} answers, one less than sampling.n; "
            f"got {len(message.resume.other_choices)}",
            field="resume.other_choices",
        )
    return GenerationInput(
        prompt=prompt_from_proto(message),
        sampling=sampling,
        model=message.model,
        adapter=message.adapter,
        request_id=message.request_id,
        placement=_FROM_PROTO[message.placement],
        linger_seconds=message.linger_ms / 1000,
        resume=tuple(message.resume.received_token_ids) if message.HasField("resume") else None,
        resume_others=tuple(tuple(choice.ids) for choice in message.resume.other_choices),
    )


def _set_prompt(message: pb.GenerationInput, prompt: PromptInput) -> None:
    match prompt:
        case TextInput(text):
            message.text = text
        case TokenInput(token_ids):
            message.token_ids.CopyFrom(pb.TokenIds(ids=token_ids))
        case ChatInput():
            message.chat.CopyFrom(chat_to_proto(prompt))
        case unknown:
            assert_never(unknown)


@contextmanager
def sending(field: str) -> Iterator[None]:
    """Turns what protobuf raises for a value that a message cannot hold into an `InvalidArgument` for `field`."""
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument(f"{field} cannot be sent: {error}", field=field) from error
