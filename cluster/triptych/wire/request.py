"""A generation request, and its wire form."""

from typing import Final, assert_never

from triptych.core.errors import InvalidArgument
from triptych.core.inputs import ChatInput, GenerationInput, TextInput, TokenInput
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
        InvalidArgument: a text is not encodable as UTF-8, or a token id is out of the range of int32.
    """
    try:
        message = pb.GenerationInput(
            model=request.model,
            request_id=request.request_id,
            sampling=sampling_to_proto(request.sampling),
            placement=_TO_PROTO[request.placement],
        )
        match request.prompt:
            case TextInput(text):
                message.text = text
            case TokenInput(token_ids):
                message.token_ids.ids.extend(token_ids)
                message.token_ids.SetInParent()
            case ChatInput(messages):
                message.chat.CopyFrom(chat_to_proto(messages))
            case unknown:
                assert_never(unknown)
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"the request cannot be sent: {error}", field="prompt") from error
    return message


def generation_from_proto(message: pb.GenerationInput) -> GenerationInput:
    """The request that a client sent.

    Raises:
        InvalidArgument: names the field, its limit and the value.
    """
    if len(message.request_id) > MAX_REQUEST_ID or not message.request_id.isprintable():
        got = f"{len(message.request_id)}: {message.request_id!r:.60}"
        raise InvalidArgument(
            f"request_id may have at most {MAX_REQUEST_ID} printable characters, got {got}",
            field="request_id",
        )
    if message.placement not in _FROM_PROTO:
        raise InvalidArgument(f"placement {message.placement} is not known", field="placement")
    return GenerationInput(
        prompt=prompt_from_proto(message),
        sampling=sampling_from_proto(message.sampling),
        model=message.model,
        request_id=message.request_id,
        placement=_FROM_PROTO[message.placement],
    )
