"""From what a caller may pass as a prompt to token ids and embeddings."""

import sys
from collections.abc import Sequence as Sequence_
from typing import TypeAlias

from triptych.core.errors import InvalidArgument, PromptTooLong
from triptych.core.inputs import ChatInput
from triptych.core.prompt import ChatMessage, MediaPart, Prompt
from triptych.models.images import PIXEL_CEILING
from triptych.models.media import MediaLimits, layout_of
from triptych.models.text import TextProcessor

PromptLike: TypeAlias = str | Sequence_[int] | Sequence_[ChatMessage] | ChatInput


def is_single(prompts: object) -> bool:
    """Whether `prompts` is one prompt: a text, token ids, or the messages of one chat."""
    if isinstance(prompts, (str, ChatInput)):
        return True
    return isinstance(prompts, Sequence_) and bool(prompts) and isinstance(prompts[0], (int, ChatMessage))


def require_fit(prompt_tokens: int, reach: int, capacity: int) -> None:
    """Refuses a prompt that leaves no room for an answer.

    Args:
        prompt_tokens: Of the prompt.
        reach: One more than its highest position: a video may take more positions than tokens.
        capacity: Tokens, and positions, of the context.

    Raises:
        PromptTooLong: names the limit and the value.
    """
    if prompt_tokens >= capacity:
        raise PromptTooLong(
            f"the prompt has {prompt_tokens} tokens; the context holds {capacity}, one of them for the answer",
            field="prompt",
        )
    if reach > capacity:
        raise PromptTooLong(f"the prompt has {reach} positions; the context has {capacity}", field="prompt")


def tokenize(prompt: PromptLike, text: TextProcessor) -> Prompt:
    """Token ids and the places of the images.

    Raises:
        InvalidArgument: the prompt is empty or of no known kind.
        TriptychError: as `TextProcessor.chat`, and as `layout_of` of its images.
    """
    if isinstance(prompt, str):
        return text.text(prompt)
    if isinstance(prompt, ChatInput):
        return _chat(prompt, text)
    if not prompt:
        raise InvalidArgument("the prompt is empty", field="prompt")
    if all(isinstance(item, ChatMessage) for item in prompt):
        return _chat(ChatInput(tuple(item for item in prompt if isinstance(item, ChatMessage))), text)
    if all(isinstance(item, int) for item in prompt):
        return text.token_ids([item for item in prompt if isinstance(item, int)])
    raise InvalidArgument(
        "a prompt is a text, a list of token ids, a list of ChatMessage or a ChatInput", field="prompt"
    )


def media_of(prompt: PromptLike) -> list[MediaPart]:
    """The images and videos of a chat, in order."""
    if isinstance(prompt, str):
        return []
    messages = prompt.messages if isinstance(prompt, ChatInput) else prompt
    return [part for message in messages if isinstance(message, ChatMessage) for part in message.media]


def _chat(chat: ChatInput, text: TextProcessor) -> Prompt:
    limits = MediaLimits(pixels=PIXEL_CEILING, bytes=sys.maxsize)
    layouts = [layout_of(part, text.layouts, limits, "image") for part in media_of(chat)]
    return text.chat(chat.messages, chat.options, layouts)
