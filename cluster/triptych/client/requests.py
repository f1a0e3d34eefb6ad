"""Requests as callers write them, made into messages: pure functions that both clients share."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict, Unpack, assert_never

from triptych.client.messages import MessageLike
from triptych.client.prompts import ImageSource, PromptLike, to_prompt, user_message
from triptych.client.settings import not_negative
from triptych.core.chat import NO_OPTIONS, ChatEnd, ChatOptions
from triptych.core.errors import InvalidArgument
from triptych.core.inputs import ChatInput, GenerationInput, PromptInput, TextInput, TokenInput
from triptych.core.plan import Placement
from triptych.core.sampling import SamplingParams
from triptych.inference.v1 import inference_pb2 as pb
from triptych.wire.prompt import chat_to_proto
from triptych.wire.request import generation_to_proto, sending


class ScalarOptions(TypedDict, total=False):
    """The fields of `SamplingParams` that hold one value."""

    max_tokens: int | None
    min_tokens: int
    ignore_eos: bool
    repetition_penalty: float | None
    presence_penalty: float
    frequency_penalty: float
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    seed: int | None
    logprobs: int | None
    skip_special_tokens: bool
    n: int


class SamplingOptions(ScalarOptions, total=False):
    """The fields of `SamplingParams`, as keywords."""

    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]


class TemplateOptions(TypedDict, total=False):
    """How a conversation is rendered: the keywords that `apply_chat_template` of transformers has for it.

    Attributes:
        tools: Functions that the model may call, as JSON Schemas.
        chat_template_kwargs: Further variables of the template, such as `{"enable_thinking": False}`.
        add_generation_prompt: Whether the assistant's turn begins behind the last message; by default it does.
        continue_final_message: The last message is left open, and the model goes on with it.
    """

    tools: Sequence[Mapping[str, Any]]
    chat_template_kwargs: Mapping[str, Any]
    add_generation_prompt: bool
    continue_final_message: bool


class GenerateOptions(SamplingOptions, TemplateOptions, total=False):
    """The keywords of `generate`, `chat` and `stream`; those of `TemplateOptions` are for conversations.

    Attributes:
        sampling: All sampling parameters at once, in place of the keywords of `SamplingOptions`.
        model: Name of the model; by default the one that is served.
        adapter: Name of the low-rank adapter that answers; by default the model as it is.
        request_id: The caller's id, unique among running requests; by default a new one. Without `seed` it determines
            the random numbers.
        placement: Which stages may serve it; by default the router chooses.
        timeout: Seconds until the deadline, lost connections included; by default the client's.
        reconnect: Seconds in which a server that went away is looked for; by default the client's. 0 fails at once.
        linger: Seconds that the server goes on while the connection is lost; by default it stops at once, and
            computes on from the tokens that the client has once it is back.
    """

    sampling: SamplingParams
    model: str
    adapter: str
    request_id: str
    placement: Placement
    timeout: float
    reconnect: float
    linger: float


def generation_request(prompt: PromptLike, options: GenerateOptions) -> pb.GenerationInput:
    """The message for one generation, with an id; timeout and reconnect are the transport's and left alone.

    Raises:
        InvalidArgument: the prompt or a sampling parameter is wrong, or sampling is given twice.
        TypeError: there is no such keyword.
    """
    return _generation_request(prompt, **options)


def chat_prompt(messages: str | Sequence[MessageLike], images: Iterable[ImageSource]) -> Sequence[MessageLike]:
    """A conversation; a bare text is one user's turn with the images.

    Raises:
        InvalidArgument: images beside whole messages, which hold their own.
    """
    images = tuple(images)
    if isinstance(messages, str):
        return [user_message(messages, images=images)]
    if images:
        raise InvalidArgument("images go with a text; in messages they are content parts", field="images")
    return messages


def tokenize_request(prompt: str | Sequence[MessageLike], model: str, options: TemplateOptions) -> pb.TokenizeRequest:
    """The message that asks for token ids.

    Raises:
        InvalidArgument: the prompt is neither a text nor messages.
    """
    form = _with_options(to_prompt(prompt), _chat_options(**options))
    with sending("prompt"):
        match form:
            case TextInput(text):
                return pb.TokenizeRequest(model=model, text=text)
            case ChatInput():
                return pb.TokenizeRequest(model=model, chat=chat_to_proto(form))
            case TokenInput():
                raise InvalidArgument("the prompt is token ids already", field="prompt")
            case unknown:
                assert_never(unknown)


def detokenize_request(token_ids: Sequence[int], model: str) -> pb.DetokenizeRequest:
    """The message that asks for text.

    Raises:
        InvalidArgument: a token id is not an int32.
    """
    with sending("token_ids"):
        return pb.DetokenizeRequest(model=model, token_ids=token_ids)


def _generation_request(
    prompt: PromptLike,
    *,
    sampling: SamplingParams | None = None,
    model: str = "",
    adapter: str = "",
    request_id: str = "",
    placement: Placement = Placement.ANY,
    timeout: float | None = None,
    reconnect: float | None = None,
    linger: float = 0.0,
    tools: Sequence[Mapping[str, Any]] = (),
    chat_template_kwargs: Mapping[str, Any] | None = None,
    add_generation_prompt: bool | None = None,
    continue_final_message: bool = False,
    **fields: Unpack[SamplingOptions],
) -> pb.GenerationInput:
    if sampling is not None and fields:
        given = ", ".join(sorted(fields))
        raise InvalidArgument(f"give sampling or its fields as keywords, not both: {given}", field="sampling")
    sampling = sampling or _sampling(**fields)
    options = _chat_options(tools, chat_template_kwargs, add_generation_prompt, continue_final_message)
    return generation_to_proto(
        GenerationInput(
            _with_options(to_prompt(prompt), options),
            sampling,
            model,
            request_id or uuid.uuid4().hex,
            placement,
            not_negative(linger, "linger"),
            adapter=adapter,
        )
    )


def _chat_options(
    tools: Sequence[Mapping[str, Any]] = (),
    chat_template_kwargs: Mapping[str, Any] | None = None,
    add_generation_prompt: bool | None = None,
    continue_final_message: bool = False,
) -> ChatOptions:
    if continue_final_message and add_generation_prompt:
        raise InvalidArgument(
            "a message that goes on is followed by no other: add_generation_prompt and continue_final_message "
            "exclude each other",
            field="chat.end",
        )
    end = ChatEnd.NOTHING if add_generation_prompt is False else ChatEnd.NEXT_TURN
    return ChatOptions.of(tools, chat_template_kwargs, ChatEnd.CONTINUE if continue_final_message else end)


def _with_options(prompt: PromptInput, options: ChatOptions) -> PromptInput:
    if options == NO_OPTIONS:
        return prompt
    if isinstance(prompt, ChatInput):
        return replace(prompt, options=options)
    raise InvalidArgument("tools and the other options of a chat template go with a conversation", field="chat")


def _sampling(
    *, stop: str | Sequence[str] = (), stop_token_ids: Sequence[int] = (), **scalars: Unpack[ScalarOptions]
) -> SamplingParams:
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    return SamplingParams(stop=stops, stop_token_ids=tuple(stop_token_ids), **scalars)
