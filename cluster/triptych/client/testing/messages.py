"""What the fake cluster says, as messages."""

from typing import assert_never

from triptych.client.testing.script import MODEL, TIMELINE, TOKENS_PER_IMAGE
from triptych.core.generation import FinishReason, PositionLogprobs, TokenLogprob
from triptych.core.inputs import ChatInput, GenerationInput, PromptInput, TextInput, TokenInput
from triptych.core.prompt import ImagePart, TextPart
from triptych.core.usage import Usage
from triptych.inference.v1 import inference_pb2 as pb
from triptych.wire.generation import finish_reason_to_proto, logprobs_to_proto, timeline_to_proto, usage_to_proto


def piece(request: GenerationInput, request_id: str, token_id: int, text: str) -> pb.GenerateStreamResponse:
    """One token of an answer; the first one of a connection names the model."""
    first = token_id == len(request.resume or ())
    logprobs = [PositionLogprobs(-0.5, (TokenLogprob(token_id, -0.5),))]
    return pb.GenerateStreamResponse(
        request_id=request_id,
        model=MODEL if first else "",
        text=text,
        token_ids=[token_id],
        logprobs=logprobs_to_proto(logprobs if request.sampling.logprobs is not None else ()),
    )


def last(request_id: str, prompt: PromptInput, tokens: int) -> pb.GenerateStreamResponse:
    """The end of an answer of so many tokens."""
    usage = Usage(len(tokens_of(prompt)), tokens, len(_images(prompt)) * TOKENS_PER_IMAGE)
    return pb.GenerateStreamResponse(
        request_id=request_id,
        model=MODEL,
        finish_reason=finish_reason_to_proto(FinishReason.STOP),
        usage=usage_to_proto(usage),
        timeline=timeline_to_proto(TIMELINE),
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
