"""A request for embeddings, and its wire form."""

from typing import assert_never

from triptych.core.errors import InvalidArgument
from triptych.core.inputs import EmbeddingInput, TextInput, TokenInput
from triptych.inference.v1 import inference_pb2 as pb
from triptych.wire.request import require_request_id, sending


def embedding_to_proto(request: EmbeddingInput) -> pb.EmbedRequest:
    """The wire form of a request.

    Raises:
        InvalidArgument: a text is not encodable as UTF-8, a number is out of its range, or a type is wrong.
    """
    with sending("dimensions"):
        message = pb.EmbedRequest(truncate=request.truncate, dimensions=request.dimensions)
    with sending("model"):
        message.model = request.model
    with sending("request_id"):
        message.request_id = request.request_id
    with sending("inputs"):
        message.inputs.extend(_input(item) for item in request.inputs)
    return message


def embedding_from_proto(message: pb.EmbedRequest) -> EmbeddingInput:
    """The request that a client sent.

    Raises:
        InvalidArgument: names the field, its limit and the value.
    """
    require_request_id(message.request_id)
    return EmbeddingInput(
        inputs=tuple(_from_proto(place, item) for place, item in enumerate(message.inputs)),
        model=message.model,
        request_id=message.request_id,
        truncate=message.truncate,
        dimensions=message.dimensions if message.HasField("dimensions") else None,
    )


def _input(item: TextInput | TokenInput) -> pb.EmbedInput:
    match item:
        case TextInput(text):
            return pb.EmbedInput(text=text)
        case TokenInput(token_ids):
            return pb.EmbedInput(token_ids=pb.TokenIds(ids=token_ids))
        case _:
            assert_never(item)


def _from_proto(place: int, item: pb.EmbedInput) -> TextInput | TokenInput:
    match item.WhichOneof("input"):
        case "text":
            return TextInput(item.text)
        case "token_ids":
            return TokenInput(tuple(item.token_ids.ids))
        case None:
            raise InvalidArgument(f"inputs[{place}] holds nothing", field=f"inputs[{place}]")
