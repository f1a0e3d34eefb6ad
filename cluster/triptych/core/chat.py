"""What a chat template is given besides the texts of the messages: tools, calls of them, variables.

JSON is text here: templates write the keys of an object in their order and tell 1 from 1.0, so nothing on the way may
parse it and write it anew.
"""

import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from triptych.core.errors import InvalidArgument

MAX_DEPTH: Final = 64


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the assistant called.

    Attributes:
        name: Of the function.
        arguments: A JSON object; empty for none.
        id: What the tool's turn refers to; empty where the template needs none.
    """

    name: str
    arguments: str = ""
    id: str = ""


class ChatEnd(enum.Enum):
    """What follows the last message of a conversation."""

    NEXT_TURN = enum.auto()
    """The beginning of the assistant's turn (`add_generation_prompt`)."""
    CONTINUE = enum.auto()
    """Nothing, not even what closes the last message: the model goes on with it (`continue_final_message`)."""
    NOTHING = enum.auto()
    """Nothing but what closes the last message."""


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How a conversation is rendered.

    Attributes:
        tools: Functions that the model may call, each a JSON object as transformers and OpenAI write them:
            `{"type": "function", "function": {"name": ..., "description": ..., "parameters": a JSON Schema}}`.
        template_kwargs: A JSON object of further variables, such as `{"enable_thinking": false}`; empty for none.
        end: What follows the last message.
    """

    tools: tuple[str, ...] = ()
    template_kwargs: str = ""
    end: ChatEnd = ChatEnd.NEXT_TURN

    @classmethod
    def of(
        cls,
        tools: Sequence[Mapping[str, Any]] = (),
        template_kwargs: Mapping[str, Any] | None = None,
        end: ChatEnd = ChatEnd.NEXT_TURN,
    ) -> Self:
        """The same from Python's dicts.

        Raises:
            InvalidArgument: a value that JSON does not have.
        """
        texts = tuple(json_text(tool, f"chat.tools[{i}]") for i, tool in enumerate(tools))
        return cls(texts, json_text(template_kwargs, "chat.template_kwargs") if template_kwargs else "", end)


NO_OPTIONS: Final = ChatOptions()


def parse_json(text: str, field: str) -> dict[str, Any]:
    """A JSON object (RFC 8259: no NaN, no Infinity), its keys in their order, at most `MAX_DEPTH` levels deep.

    Raises:
        InvalidArgument: names the field, and the place of the mistake.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        _require_depth(value, MAX_DEPTH)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise InvalidArgument(f"{field} may be nested {MAX_DEPTH} levels deep, and is deeper", field=field) from None
    except ValueError as error:  # of a surrogate too
        raise InvalidArgument(f"{field} is not JSON: {error}", field=field) from None
    if not isinstance(value, dict):
        raise InvalidArgument(f"{field} must be a JSON object, got {text!r:.60}", field=field)
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _require_depth(value: object, levels: int) -> None:
    if isinstance(value, (dict, list)):
        if not levels:
            raise RecursionError
        for item in value.values() if isinstance(value, dict) else value:
            _require_depth(item, levels - 1)


def json_text(value: Mapping[str, Any], field: str) -> str:
    """A JSON object as text.

    Raises:
        InvalidArgument: names the field that holds something else.
    """
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"{field} must be a JSON object, got {type(value).__name__}", field=field)
    try:
        return json.dumps(dict(value), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"{field} cannot be written as JSON: {error}", field=field) from error
