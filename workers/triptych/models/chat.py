"""Conversations to token ids, by the chat template of the model. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from transformers import PreTrainedTokenizerFast

from triptych.core.errors import FailedPrecondition, InvalidArgument
from triptych.core.prompt import ROLES, ChatMessage, ImagePart, ImageSpan, Prompt, TextPart
from triptych.models.control_tokens import ControlTokens
from triptych.models.hf_tokenizer import leading_tokens, takes_parts


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """How an image stands in a prompt: `length` times the token `token_id`."""

    token_id: int
    length: int


class ChatTemplate:
    """Renders and tokenizes conversations.

    Special tokens come from the template alone. A caller's text that spells one (`<|im_start|>`, `<image>`) is
    tokenized as the characters it is made of, and texts that spell one only together are refused: nobody opens a
    turn or claims an image place from inside a message.

    Args:
        tokenizer: Writes the token ids.
        template: A Jinja template; it is run in transformers' sandbox.
        image: Of a vision-language model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, template: str, image: ImageTokens | None) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._image = image
        self._takes_parts = image is not None and takes_parts(tokenizer, template)
        self._prefix = leading_tokens(tokenizer) if image else []
        self._control_tokens = ControlTokens(tokenizer.added_tokens_encoder)

    def apply(self, messages: Sequence[ChatMessage]) -> Prompt:
        """The prompt that asks for the next turn of the assistant.

        Raises:
            InvalidArgument: nothing to read, an unknown role, a special token spelled across parts, or a
                conversation that the template refuses.
            FailedPrecondition: an image for a model that reads text only.
        """
        images = _check(messages, self._image is not None)
        self._require_apart([part.text for m in messages for part in m.parts if isinstance(part, TextPart)])
        token_ids = self._encode([self._render(message) for message in messages])
        if self._image is None:
            return Prompt(tuple(token_ids))
        found = token_ids.count(self._image.token_id)
        if found != images:
            raise InvalidArgument(
                f"the model's chat template has {found} places for the {images} images of this conversation; "
                "images may belong to the user's turns only",
                field="chat.messages",
            )
        return _with_images(token_ids, self._image)

    def _render(self, message: ChatMessage) -> dict[str, Any]:
        if self._takes_parts:
            return {"role": message.role, "content": [_part(part) for part in message.parts]}
        text = "".join(part.text for part in message.parts if isinstance(part, TextPart))
        return {"role": message.role, "content": text}

    def _require_apart(self, texts: list[str]) -> None:
        if token := self._control_tokens.across(texts):
            raise InvalidArgument(
                f"two texts of this conversation together spell the special token {token!r}", field="chat.messages"
            )

    def _encode(self, conversation: list[dict[str, Any]]) -> list[int]:
        try:
            rendered = self._tokenizer.apply_chat_template(
                conversation,
                chat_template=self._template,
                add_generation_prompt=True,
                sanitize_control_tokens=True,
                return_dict=False,
            )
        except Exception as error:  # a template is a program and may fail in any way
            raise InvalidArgument(
                f"the model's chat template refuses this conversation: {error}", field="chat.messages"
            ) from error
        token_ids, prefix = cast(list[int], rendered), self._prefix
        return token_ids if token_ids[: len(prefix)] == prefix else prefix + token_ids


def _check(messages: Sequence[ChatMessage], takes_images: bool) -> int:
    """Refuses what no template should see; returns how many images there are."""
    if not messages:
        raise InvalidArgument("a chat needs at least one message", field="chat.messages")
    images = 0
    for i, message in enumerate(messages):
        field = f"chat.messages[{i}]"
        if message.role not in ROLES:
            raise InvalidArgument(
                f"{field}.role must be one of {', '.join(ROLES)}, got {message.role!r:.60}", field=f"{field}.role"
            )
        for j, part in enumerate(message.parts):
            if isinstance(part, ImagePart):
                images += 1
                if not takes_images:
                    raise FailedPrecondition(
                        f"{field}.parts[{j}] is an image, and the model reads text only", field=f"{field}.parts[{j}]"
                    )
    if not images and not any(part.text for m in messages for part in m.parts if isinstance(part, TextPart)):
        raise InvalidArgument("the prompt is empty: no message holds text or an image", field="chat.messages")
    return images


def _part(part: TextPart | ImagePart) -> dict[str, str]:
    match part:
        case TextPart(text):
            return {"type": "text", "text": text}
        case ImagePart():
            return {"type": "image"}


def _with_images(token_ids: list[int], image: ImageTokens) -> Prompt:
    """Repeats each image token to the length of an image."""
    expanded: list[int] = []
    spans = []
    for token_id in token_ids:
        if token_id == image.token_id:
            spans.append(ImageSpan(len(expanded), image.length))
            expanded += [token_id] * image.length
        else:
            expanded.append(token_id)
    return Prompt(tuple(expanded), tuple(spans))
