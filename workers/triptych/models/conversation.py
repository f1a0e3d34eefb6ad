"""A conversation as a chat template reads it: plain dicts, every text of them checked."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias

from transformers import PreTrainedTokenizerFast

from triptych.core.chat import ChatEnd, ChatOptions, ToolCall, parse_json
from triptych.core.errors import InvalidArgument
from triptych.core.prompt import ChatMessage, TextPart

JsonObject: TypeAlias = dict[str, Any]

_ARGUMENTS: Final = inspect.signature(PreTrainedTokenizerFast.apply_chat_template).parameters
_RESERVED: Final = frozenset({*_ARGUMENTS, "messages"}) - {"documents"}
"""Arguments of transformers' own, among them the one that keeps callers' texts and special tokens apart."""


def template_arguments(options: ChatOptions) -> JsonObject:
    """The keyword arguments of `apply_chat_template`.

    Raises:
        InvalidArgument: names `chat.tools[i]` or `chat.template_kwargs`, and what is wrong with it.
    """
    extra = parse_json(options.template_kwargs, "chat.template_kwargs") if options.template_kwargs else {}
    for name in extra:
        if name in _RESERVED:
            field = f"chat.template_kwargs.{name}"
            raise InvalidArgument(f"{field} cannot be set: it is no variable of the template", field=field)
    return {
        "tools": [parse_json(tool, f"chat.tools[{i}]") for i, tool in enumerate(options.tools)] or None,
        "add_generation_prompt": options.end is ChatEnd.NEXT_TURN,
        "continue_final_message": options.end is ChatEnd.CONTINUE,
        **extra,
    }


def template_message(message: ChatMessage, content: str | list[dict[str, str]], field: str) -> JsonObject:
    """A message with the keys that transformers documents; those that it has nothing for are left out.

    Args:
        message: The message.
        content: What is said in it, in the form that the template takes.
        field: The message's place in the request, for errors.

    Raises:
        InvalidArgument: the arguments of a tool call are no JSON object.
    """
    calls = [_call(call, f"{field}.tool_calls[{i}].arguments") for i, call in enumerate(message.tool_calls)]
    optional: JsonObject = {
        "content": content if message.parts or not calls else None,
        "tool_calls": calls or None,
        "tool_call_id": message.tool_call_id or None,
        "name": message.name or None,
        "reasoning_content": message.reasoning or None,
    }
    return {"role": message.role} | {key: value for key, value in optional.items() if value is not None}


def texts_of(messages: Sequence[ChatMessage]) -> list[str]:
    """Every text of these messages but the JSON of their tool calls, in the order of the conversation."""
    texts = []
    for message in messages:
        texts += [message.name, message.tool_call_id, message.reasoning]
        texts += [part.text for part in message.parts if isinstance(part, TextPart)]
    return [text for text in texts if text]


def strings_in(value: object) -> Iterator[str]:
    """Every text in a JSON value, keys included, in its order."""
    match value:
        case str():
            yield value
        case dict():
            for key, item in value.items():
                yield key
                yield from strings_in(item)
        case list():
            for item in value:
                yield from strings_in(item)


def keys_in(value: object) -> Iterator[str]:
    """Every key in a JSON value."""
    match value:
        case dict():
            for key, item in value.items():
                yield key
                yield from keys_in(item)
        case list():
            for item in value:
                yield from keys_in(item)


def _call(call: ToolCall, field: str) -> JsonObject:
    function = {"name": call.name, "arguments": parse_json(call.arguments, field) if call.arguments else {}}
    named = {"id": call.id} if call.id else {}
    return {**named, "type": "function", "function": function}
