"""Prompts and chat messages, and their wire form."""

from typing import Final

from triptych.core.chat import ChatEnd, ChatOptions, ToolCall
from triptych.core.errors import InvalidArgument
from triptych.core.inputs import ChatInput, PromptInput, TextInput, TokenInput
from triptych.core.prompt import ROLES, ChatMessage
from triptych.inference.v1 import inference_pb2 as pb
from triptych.wire.parts import part_bytes, part_from_proto, part_to_proto

_ENDS: Final = {
    ChatEnd.NEXT_TURN: pb.CHAT_END_UNSPECIFIED,
    ChatEnd.CONTINUE: pb.CHAT_END_CONTINUE,
    ChatEnd.NOTHING: pb.CHAT_END_NOTHING,
}
_ENDS_FROM_PROTO: Final = {value: end for end, value in _ENDS.items()}


def chat_to_proto(chat: ChatInput) -> pb.Chat:
    """The wire form of a conversation."""
    return pb.Chat(
        messages=[_message_to_proto(message) for message in chat.messages],
        tools=chat.options.tools,
        template_kwargs=chat.options.template_kwargs,
        end=_ENDS[chat.options.end],
    )


def chat_from_proto(message: pb.Chat) -> ChatInput:
    """A conversation with every data URI decoded.

    Raises:
        InvalidArgument: names `chat.messages[i].role`, `chat.messages[i].parts[j]` or `chat.end`.
    """
    if message.end not in _ENDS_FROM_PROTO:
        raise InvalidArgument(f"chat.end {message.end} is not known", field="chat.end")
    options = ChatOptions(tuple(message.tools), message.template_kwargs, _ENDS_FROM_PROTO[message.end])
    return ChatInput(tuple(_message(index, item) for index, item in enumerate(message.messages)), options)


def prompt_from_proto(message: pb.GenerationInput | pb.TokenizeRequest) -> PromptInput:
    """The prompt of a request.

    Raises:
        InvalidArgument: the prompt is absent or empty, or a chat message is wrong.
    """
    match message.WhichOneof("prompt"):
        case "text" if message.text:
            return TextInput(message.text)
        case "token_ids" if isinstance(message, pb.GenerationInput) and message.token_ids.ids:
            return TokenInput(tuple(message.token_ids.ids))
        case "chat" if message.chat.messages:
            return chat_from_proto(message.chat)
        case None:
            raise InvalidArgument("the request has no prompt", field="prompt")
        case form:
            raise InvalidArgument(f"the prompt is empty: {form} holds nothing", field=form)


def picture_bytes(message: pb.GenerationInput) -> int:
    """Bytes of the pictures of a request, as they came: what holding on to them costs."""
    return sum(part_bytes(part) for turn in message.chat.messages for part in turn.parts)


def _message(index: int, message: pb.ChatMessage) -> ChatMessage:
    field = f"chat.messages[{index}]"
    if message.role not in ROLES:
        raise InvalidArgument(
            f"{field}.role must be one of {', '.join(ROLES)}, got {message.role!r:.60}", field=f"{field}.role"
        )
    return ChatMessage(
        message.role,
        tuple(part_from_proto(f"{field}.parts[{place}]", part) for place, part in enumerate(message.parts)),
        tuple(ToolCall(call.name, call.arguments, call.id) for call in message.tool_calls),
        message.tool_call_id,
        message.name,
        message.reasoning,
    )


def _message_to_proto(message: ChatMessage) -> pb.ChatMessage:
    calls = [pb.ToolCall(id=call.id, name=call.name, arguments=call.arguments) for call in message.tool_calls]
    return pb.ChatMessage(
        role=message.role,
        parts=[part_to_proto(part) for part in message.parts],
        tool_calls=calls,
        tool_call_id=message.tool_call_id,
        name=message.name,
        reasoning=message.reasoning,
    )
