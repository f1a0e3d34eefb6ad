"""Conversations to token ids, by the chat template of the model. No torch."""

from collections.abc import Sequence
from typing import Final, cast

from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import encode_marked_chat, mark_control_tokens

from triptych.core.chat import NO_OPTIONS, ChatOptions
from triptych.core.errors import FailedPrecondition, InvalidArgument
from triptych.core.prompt import ROLES, ChatMessage, ImagePart, MediaPart, Part, Prompt, TextPart, VideoPart
from triptych.models.control_tokens import ControlTokens
from triptych.models.conversation import (
    JsonObject,
    keys_in,
    strings_in,
    template_arguments,
    template_message,
    texts_of,
)
from triptych.models.hf_tokenizer import leading_tokens, takes_parts
from triptych.models.pictures.layout import Layouts, MediaLayout
from triptych.models.placeholders import Placeholders, repeated

_ESCAPED_MARKS: Final = ("\\U000f0000", "\\udb80\\udc00")
"""How Python's `repr` and ASCII JSON write the character that stands before a special token of a caller's text."""


class ChatTemplate:
    """Renders and tokenizes conversations.

    Special tokens come from the template alone. A caller's text that spells one (`<|im_start|>`, `<image>`) is
    tokenized as the characters it is made of, and texts that spell one only together are refused: nobody opens a
    turn or claims an image place from inside a message, a tool's result or the description of a tool.

    Args:
        tokenizer: Writes the token ids.
        template: A Jinja template; it is run in transformers' sandbox.
        layouts: Of a vision-language model's images.
        tool_template: For conversations with tools, where the model has a template of its own for them.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        template: str,
        layouts: Layouts | None,
        tool_template: str | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._tool_template = tool_template or template
        self._placeholders = Placeholders(tokenizer, layouts) if layouts else None
        self._takes_parts = layouts is not None and takes_parts(tokenizer, template)
        self._prefix = leading_tokens(tokenizer) if layouts else []
        self._control_tokens = ControlTokens(tokenizer)

    def apply(
        self,
        messages: Sequence[ChatMessage],
        options: ChatOptions = NO_OPTIONS,
        layouts: Sequence[MediaLayout] = (),
    ) -> Prompt:
        """The prompt that the messages make, by default up to where the assistant's next turn begins.

        Args:
            messages: The conversation.
            options: What else the template is to know.
            layouts: Of each of its images and videos, in order.

        Raises:
            InvalidArgument: nothing to read, an unknown role, a special token spelled across parts or in the key of
                an object, JSON that is none, or a conversation that the template refuses.
            FailedPrecondition: an image for a model that reads text only, or a video for one that takes none.
        """
        _check(messages, self._placeholders)
        arguments = template_arguments(options)
        conversation = [self._message(i, message) for i, message in enumerate(messages)]
        self._require_apart(messages, conversation, arguments)
        parts = [part for message in messages for part in message.media]
        return self._encode(conversation, arguments, parts, layouts)

    def _message(self, index: int, message: ChatMessage) -> JsonObject:
        content: str | list[dict[str, str]]
        if self._takes_parts:
            content = [_part(part) for part in message.parts]
        else:
            content = "".join(part.text for part in message.parts if isinstance(part, TextPart))
        return template_message(message, content, f"chat.messages[{index}]")

    def _require_apart(
        self, messages: Sequence[ChatMessage], conversation: list[JsonObject], arguments: JsonObject
    ) -> None:
        calls = (call["function"] for message in conversation for call in message.get("tool_calls", ()))
        values = [*arguments.values(), *(value for call in calls for value in call.values())]
        for key in keys_in(values):  # marks are set in values only
            if token := self._control_tokens.within(key):
                raise InvalidArgument(f"the key {key!r:.60} holds the special token {token!r}", field="chat")
        said = [part.text for m in messages for part in m.parts if isinstance(part, TextPart)]
        everything = texts_of(messages) + list(strings_in(values))
        if token := self._control_tokens.across(said) or self._control_tokens.across(everything):
            raise InvalidArgument(
                f"two texts of this conversation together spell the special token {token!r}", field="chat.messages"
            )

    def _encode(
        self,
        conversation: list[JsonObject],
        arguments: JsonObject,
        parts: Sequence[MediaPart],
        layouts: Sequence[MediaLayout],
    ) -> Prompt:
        template = self._tool_template if arguments["tools"] else self._template
        marked = self._control_tokens.of_template(template)
        try:
            rendered = cast(
                str,
                self._tokenizer.apply_chat_template(
                    mark_control_tokens(conversation, marked),
                    chat_template=template,
                    tokenize=False,
                    **mark_control_tokens(arguments, marked),
                ),
            )
            _require_marks(rendered, conversation, arguments)
            expanded = self._placeholders.expand(rendered, parts, layouts) if self._placeholders else None
            token_ids: list[int] = encode_marked_chat(self._tokenizer, expanded.text if expanded else rendered)
        except InvalidArgument:
            raise
        except Exception as error:  # a template is a program and may fail in any way
            raise InvalidArgument(
                f"the model's chat template refuses this conversation: {error}", field="chat.messages"
            ) from error
        prefix = self._prefix
        token_ids = token_ids if token_ids[: len(prefix)] == prefix else prefix + token_ids
        return repeated(token_ids, expanded.runs) if expanded else Prompt(tuple(token_ids))


def _require_marks(rendered: str, *given: object) -> None:
    """Refuses what a template has written escaped: a special token in it has lost the mark that it is text."""
    for escaped in _ESCAPED_MARKS:
        if escaped in rendered and not any(escaped in text for text in strings_in(list(given))):
            raise InvalidArgument(
                "a text of this conversation spells a special token, and the model's chat template writes it escaped",
                field="chat.messages",
            )


def _check(messages: Sequence[ChatMessage], placeholders: Placeholders | None) -> None:
    """Refuses what no template should see."""
    if not messages:
        raise InvalidArgument("a chat needs at least one message", field="chat.messages")
    for i, message in enumerate(messages):
        field = f"chat.messages[{i}]"
        if message.role not in ROLES:
            raise InvalidArgument(
                f"{field}.role must be one of {', '.join(ROLES)}, got {message.role!r:.60}", field=f"{field}.role"
            )
        for j, part in enumerate(message.parts):
            _require_eyes(part, f"{field}.parts[{j}]", placeholders)
    if not any(message.media or message.tool_calls for message in messages) and not texts_of(messages):
        raise InvalidArgument("the prompt is empty: no message holds text or an image", field="chat.messages")


def _require_eyes(part: Part, field: str, placeholders: Placeholders | None) -> None:
    match part:
        case TextPart():
            return
        case ImagePart() if placeholders is None:
            raise FailedPrecondition(f"{field} is an image, and the model reads text only", field=field)
        case VideoPart() if placeholders is None or not placeholders.takes_videos:
            raise FailedPrecondition(f"{field} is a video, and the model takes none", field=field)


def _part(part: Part) -> dict[str, str]:
    match part:
        case TextPart(text):
            return {"type": "text", "text": text}
        case ImagePart():
            return {"type": "image"}
        case VideoPart():
            return {"type": "video"}
