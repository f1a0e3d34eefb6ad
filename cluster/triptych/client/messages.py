"""Chat messages as callers write them, in the form that OpenAI's clients and transformers use."""

from collections.abc import Mapping, Sequence
from typing import Final

from triptych.core.chat import ToolCall, json_text
from triptych.core.errors import InvalidArgument
from triptych.core.prompt import ChatMessage, ImagePart, Part, TextPart, VideoPart

MessageLike = ChatMessage | Mapping[str, object]
"""A `ChatMessage`, or `{"role": ..., "content": ...}` with a text or a sequence of texts and parts as content.

An assistant's message may have `tool_calls` and `reasoning_content`, a tool's `tool_call_id`, and each a `name`.
"""

_TEXTS: Final = {"tool_call_id": "tool_call_id", "name": "name", "reasoning_content": "reasoning"}
_KEYS: Final = {"role", "content", "tool_calls", *_TEXTS}


def to_message(index: int, message: MessageLike) -> ChatMessage:
    """The message at place `index` of a conversation.

    Raises:
        InvalidArgument: names the message and the key at fault.
    """
    if isinstance(message, ChatMessage):
        return message
    field = f"chat.messages[{index}]"
    role, content, calls = message.get("role"), message.get("content"), message.get("tool_calls")
    if not message.keys() <= _KEYS or not isinstance(role, str) or (content is None and not calls):
        raise InvalidArgument(
            f"{field} must have a role, content or tool_calls, and no keys but {', '.join(sorted(_KEYS))}; "
            f"got {list(message)}",
            field=field,
        )
    return ChatMessage(
        role,
        _parts(field, content),
        tuple(_call(f"{field}.tool_calls[{i}]", call) for i, call in enumerate(_list(field, calls))),
        **{name: _text(f"{field}.{key}", message.get(key)) for key, name in _TEXTS.items()},
    )


def _parts(field: str, content: object) -> tuple[Part, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (TextPart(content),)
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise _not_content(field, content)
    return tuple(_part(field, part) for part in content)


def _part(field: str, part: object) -> Part:
    match part:
        case TextPart() | ImagePart() | VideoPart():
            return part
        case str():
            return TextPart(part)
        case _:
            raise _not_content(field, part)


def _not_content(field: str, got: object) -> InvalidArgument:
    message = f"{field}.content must be a text or a sequence of texts, TextPart, ImagePart and VideoPart"
    return InvalidArgument(f"{message}, got {type(got).__name__}", field=f"{field}.content")


def _list(field: str, calls: object) -> Sequence[object]:
    if calls is None:
        return ()
    if not isinstance(calls, Sequence) or isinstance(calls, (str, bytes)):
        raise InvalidArgument(
            f"{field}.tool_calls must be a list, got {type(calls).__name__}", field=f"{field}.tool_calls"
        )
    return calls


def _call(field: str, call: object) -> ToolCall:
    match call:
        case ToolCall():
            return call
        case {"function": {"name": str(name), **function}, **rest}:
            arguments = function.get("arguments") or ""
            text = arguments if isinstance(arguments, str) else _arguments(f"{field}.arguments", arguments)
            return ToolCall(name, text, _text(f"{field}.id", rest.get("id")))
        case _:
            raise InvalidArgument(
                f'{field} must be a ToolCall or {{"id": ..., "function": {{"name": ..., "arguments": ...}}}}',
                field=field,
            )


def _arguments(field: str, arguments: object) -> str:
    if not isinstance(arguments, Mapping):
        raise InvalidArgument(f"{field} must be an object, got {type(arguments).__name__}", field=field)
    return json_text(arguments, field)


def _text(field: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidArgument(f"{field} must be a text, got {type(value).__name__}", field=field)
    return value
