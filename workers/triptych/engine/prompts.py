"""From what a caller may pass as a prompt to token ids and embeddings."""

from collections.abc import Iterable
from collections.abc import Sequence as Sequence_
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from triptych.core.errors import InvalidArgument, PromptTooLong
from triptych.core.inputs import ChatInput
from triptych.core.prompt import ChatMessage, ImagePart, Prompt
from triptych.engine.sequence import Media
from triptych.models.files import ModelFiles
from triptych.models.images import content_hash
from triptych.models.pictures import Preprocessor, open_preprocessor
from triptych.models.spec import ModelSpec
from triptych.models.text import TextProcessor
from triptych.models.towers.encoder import VisionEncoder

PromptLike: TypeAlias = str | Sequence_[int] | Sequence_[ChatMessage] | ChatInput


def is_single(prompts: object) -> bool:
    """Whether `prompts` is one prompt: a text, token ids, or the messages of one chat."""
    if isinstance(prompts, (str, ChatInput)):
        return True
    return isinstance(prompts, Sequence_) and bool(prompts) and isinstance(prompts[0], (int, ChatMessage))


def require_fit(prompt_tokens: int, capacity: int) -> None:
    """Refuses a prompt that leaves no room for an answer.

    Raises:
        PromptTooLong: names the limit and the value.
    """
    if prompt_tokens >= capacity:
        raise PromptTooLong(
            f"the prompt has {prompt_tokens} tokens; the context holds {capacity}, one of them for the answer",
            field="prompt",
        )


@dataclass(frozen=True, slots=True)
class Eyes:
    """A vision tower and the preprocessing it was trained with."""

    preprocessor: Preprocessor
    encoder: VisionEncoder

    @classmethod
    def load(cls, files: ModelFiles, spec: ModelSpec, dtype: torch.dtype, device: str = "cpu") -> "Eyes":
        """Reads the vision part of a model, and nothing else of it."""
        return cls(open_preprocessor(files, spec), VisionEncoder.load(files, spec, dtype, device))

    def see(self, images: Sequence_[bytes]) -> list[Tensor]:
        """Embeddings of encoded pictures, [tokens, hidden] each."""
        return [rows[0] for rows in self.encoder.encode([self.preprocessor.image(image) for image in images])]


def tokenize(prompt: PromptLike, text: TextProcessor) -> Prompt:
    """Token ids and the places of the images.

    Raises:
        InvalidArgument: the prompt is empty or of no known kind.
    """
    if isinstance(prompt, str):
        return text.text(prompt)
    if isinstance(prompt, ChatInput):
        return text.chat(prompt.messages, prompt.options)
    if not prompt:
        raise InvalidArgument("the prompt is empty", field="prompt")
    if all(isinstance(item, ChatMessage) for item in prompt):
        return text.chat([item for item in prompt if isinstance(item, ChatMessage)])
    if all(isinstance(item, int) for item in prompt):
        return text.token_ids([item for item in prompt if isinstance(item, int)])
    raise InvalidArgument(
        "a prompt is a text, a list of token ids, a list of ChatMessage or a ChatInput", field="prompt"
    )


def images_of(prompt: PromptLike) -> list[bytes]:
    """The pictures of a chat, in order."""
    if isinstance(prompt, str):
        return []
    items = prompt.messages if isinstance(prompt, ChatInput) else prompt
    messages = (item for item in items if isinstance(item, ChatMessage))
    return [part.data for message in messages for part in message.parts if isinstance(part, ImagePart)]


def media_of(prompt: Prompt, images: Sequence_[bytes], embeddings: Iterable[Tensor]) -> tuple[Media, ...]:
    """Embeddings [tokens, hidden] of encoded pictures at the places that stand for them."""
    pictures = zip(prompt.image_spans, images, embeddings, strict=True)
    return tuple(Media(span.start, span.length, rows, content_hash(image)) for span, image, rows in pictures)
