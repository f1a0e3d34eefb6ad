"""What the fake cluster says, as messages."""

from collections.abc import Sequence
from typing import assert_never

from triptych.client.testing.script import EMBEDDING_SIZE, MODEL, TIMELINE, TOKENS_PER_IMAGE
from triptych.core.generation import FinishReason, PositionLogprobs, TokenLogprob
from triptych.core.inputs import ChatInput, EmbeddingInput, GenerationInput, PromptInput, TextInput, TokenInput
from triptych.core.prompt import ImagePart, TextPart
from triptych.core.usage import Usage
from triptych.inference.v1 import inference_pb2 as pb
from triptych.wire.generation import finish_reason_to_proto, logprobs_to_proto, timeline_to_proto, usage_to_proto


def piece(
    request: GenerationInput, request_id: str, token_id: int, text: str, index: int
) -> pb.GenerateStreamResponse:
    """One token of answer `index`; the first one of a connection names the model."""
    first = token_id == len(request.resume or ()) and not index
    logprobs = [PositionLogprobs(-0.5, (TokenLogprob(token_id, -0.5, text.encode()),), text.encode())]
    return pb.GenerateStreamResponse(
        request_id=request_id,
        model=MODEL if first else "",
        text=text,
        token_ids=[token_id],
        logprobs=logprobs_to_proto(logprobs if request.sampling.logprobs is not None else ()),
        index=index,
    )


def last(request: GenerationInput, request_id: str, tokens: int, index: int) -> pb.GenerateStreamResponse:
    """The end of answer `index`, which has so many tokens like all others; with the last one comes their usage."""
    prompt, n = request.prompt, request.sampling.n
    usage = Usage(len(tokens_of(prompt)), n * tokens, len(_images(prompt)) * TOKENS_PER_IMAGE)
    return pb.GenerateStreamResponse(
        request_id=request_id,
        model=MODEL,
        finish_reason=finish_reason_to_proto(FinishReason.STOP),
        index=index,
        usage=usage_to_proto(usage) if index == n - 1 else None,
        timeline=timeline_to_proto(TIMELINE),
    )


def collected(chunks: Sequence[pb.GenerateStreamResponse], index: int) -> pb.Choice:
    """Answer `index` out of the messages of a stream."""
    own = [chunk for chunk in chunks if chunk.index == index]
    return pb.Choice(
        index=index,
        text="".join(chunk.text for chunk in own),
        token_ids=[token_id for chunk in own for token_id in chunk.token_ids],
        finish_reason=own[-1].finish_reason,
        logprobs=[position for chunk in own for position in chunk.logprobs],
        timeline=own[-1].timeline,
    )


def embedded(request: EmbeddingInput, request_id: str) -> pb.EmbedResponse:
    """Of each text, how often its tokens have each remainder modulo the size of a vector."""
    size = EMBEDDING_SIZE if request.dimensions is None else request.dimensions
    texts = [tokens_of(item) for item in request.inputs]
    return pb.EmbedResponse(
        request_id=request_id,
        model=MODEL,
        dimensions=size,
        values=[sum(token % size == place for token in text) for text in texts for place in range(size)],
        token_counts=map(len, texts),
        usage=usage_to_proto(Usage(sum(map(len, texts)), 0)),
    )


def tokens_of(prompt: PromptInput) -> list[int]:
    """A text's bytes, `TOKENS_PER_IMAGE` for an image."""
    match prompt:
        case TextInput(text):
            return list(text.encode())
        case TokenInput(token_ids):
            return list(token_ids)
        case ChatInput(messages):
            texts = [part.text for message in messages for part in message.parts if isinstance(part, TextPart)]
            return [0] * (len(_images(prompt)) * TOKENS_PER_IMAGE) + list("".join(texts).encode())
        case unknown:
            assert_never(unknown)


def _images(prompt: PromptInput) -> list[ImagePart]:
    if not isinstance(prompt, ChatInput):
        return []
    return [part for message in prompt.messages for part in message.parts if isinstance(part, ImagePart)]
