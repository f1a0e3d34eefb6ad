from pathlib import Path
from typing import Any

import pytest

from triptych.client import (
    ChatMessage,
    Client,
    FinishReason,
    ImagePart,
    InvalidArgument,
    NotFound,
    Placement,
    PositionLogprobs,
    ResourceExhausted,
    SamplingParams,
    TextChunk,
    TextPart,
    TokenLogprob,
    Usage,
    VideoPart,
    load_video,
    user_message,
)
from triptych.client.prompts import to_prompt
from triptych.client.testing import TIMELINE, FakeServer
from triptych.core.chat import ChatEnd, ChatOptions, ToolCall
from triptych.core.inputs import ChatInput, TextInput, TokenInput
from triptych.wire.limits import MAX_MESSAGE_BYTES


def test_generate_gives_the_whole_answer(client: Client) -> None:
    answer = client.generate("Hi!")
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("Hello", (0, 1), FinishReason.STOP)
    assert answer.model == "fake"
    assert answer.usage == Usage(prompt_tokens=3, completion_tokens=2)
    assert answer.timeline == TIMELINE
    assert answer.logprobs == ()


def test_logprobs_come_when_asked_for(client: Client) -> None:
    answer = client.generate("Hi", logprobs=1)
    assert answer.logprobs == (
        PositionLogprobs(-0.5, (TokenLogprob(0, -0.5, b"Hel"),), b"Hel"),
        PositionLogprobs(-0.5, (TokenLogprob(1, -0.5, b"lo"),), b"lo"),
    )
    with client.stream("Hi", logprobs=1) as stream:
        assert stream.result().logprobs == answer.logprobs


def test_a_stream_yields_pieces_and_then_the_same_answer(client: Client) -> None:
    with client.stream("Hi!", request_id="mine") as stream:
        assert stream.request_id == "mine"
        assert list(stream) == [
            TextChunk("Hel", (0,)),
            TextChunk("lo", (1,)),
            TextChunk("", (), (), FinishReason.STOP),
        ]
        streamed = stream.result()
    assert streamed == client.generate("Hi!", request_id="mine")


def test_result_reads_what_is_left(client: Client) -> None:
    stream = client.stream("Hi")
    assert next(stream).text == "Hel"
    assert stream.result().text == "Hello"
    stream.cancel()
    assert stream.result().text == "Hello"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("text", TextInput("text")),
        ([1, 2, 3], TokenInput((1, 2, 3))),
        ((7,), TokenInput((7,))),
        (
            [{"role": "system", "content": "Be short."}, user_message("Hi")],
            ChatInput(
                (ChatMessage("system", (TextPart("Be short."),)), ChatMessage("user", (TextPart("Hi"),))),
            ),
        ),
        (
            [{"role": "user", "content": [ImagePart(b"pixels"), "What is it?"]}],
            ChatInput((ChatMessage("user", (ImagePart(b"pixels"), TextPart("What is it?"))),)),
        ),
    ],
)
def test_a_prompt_has_three_forms(server: FakeServer, client: Client, prompt: object, expected: object) -> None:
    client.generate(prompt)  # type: ignore[arg-type]
    assert server.requests[-1].prompt == expected


def test_a_conversation_with_tools_reaches_the_server(server: FakeServer, client: Client) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"b": 1, "a": 1.0}}}
    call = {"id": "7", "type": "function", "function": {"name": "look", "arguments": {"é": "x"}}}
    messages = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Hm."},
        {"role": "tool", "tool_call_id": "7", "name": "look", "content": "seven"},
        {"role": "assistant", "content": "It is"},
    ]
    client.generate(
        messages, tools=[tool], chat_template_kwargs={"enable_thinking": False}, continue_final_message=True
    )
    options = ChatOptions(
        ('{"type": "function", "function": {"name": "look", "parameters": {"b": 1, "a": 1.0}}}',),
        '{"enable_thinking": false}',
        ChatEnd.CONTINUE,
    )
    expected = ChatInput(
        (
            ChatMessage("user", (TextPart("Look."),)),
            ChatMessage("assistant", (), (ToolCall("look", '{"é": "x"}', "7"),), reasoning="Hm."),
            ChatMessage("tool", (TextPart("seven"),), (), "7", "look"),
            ChatMessage("assistant", (TextPart("It is"),)),
        ),
        options,
    )
    assert server.requests[-1].prompt == expected
    client.generate([user_message("Hi")], add_generation_prompt=False)
    assert server.requests[-1].prompt == ChatInput((user_message("Hi"),), ChatOptions(end=ChatEnd.NOTHING))
    assert client.tokenize(messages, tools=[tool]) == client.tokenize(messages)  # the fake counts texts


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"tools": ["look"]}, "chat.tools[0]"),
        ({"tools": [{"x": object()}]}, "chat.tools[0]"),
        ({"chat_template_kwargs": {"x": float("nan")}}, "chat.template_kwargs"),
        ({"add_generation_prompt": True, "continue_final_message": True}, "chat.end"),
    ],
)
def test_a_wrong_template_option_is_refused_by_name(client: Client, options: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.generate([user_message("Hi")], **options)
    assert caught.value.field == field
    with pytest.raises(InvalidArgument, match="go with a conversation"):
        client.generate("Hi", tools=[{}])


def test_several_answers_come_as_one_result(server: FakeServer, client: Client) -> None:
    generation = client.generate("x", n=3, logprobs=1)
    assert [choice.index for choice in generation.choices] == [0, 1, 2]
    assert {(c.text, c.token_ids, c.finish_reason) for c in generation.choices} == {
        ("Hello", (0, 1), FinishReason.STOP)
    }
    assert [position.token for position in generation.others[1].logprobs] == [b"Hel", b"lo"]
    assert generation.usage.completion_tokens == 6
    assert client.generate("x").others == ()


def test_several_answers_are_streamed_each_piece_with_its_index(server: FakeServer, client: Client) -> None:
    stream = client.stream("x", n=2)
    chunks = list(stream)
    assert [(chunk.index, chunk.text) for chunk in chunks[:4]] == [(0, "Hel"), (1, "Hel"), (0, "lo"), (1, "lo")]
    assert [chunk.index for chunk in chunks if chunk.finish_reason] == [0, 1]
    assert stream.result() == client.generate("x", n=2, request_id=stream.request_id)


def test_every_option_reaches_the_server(server: FakeServer, client: Client) -> None:
    params = SamplingParams(max_tokens=5, stop=("a", "é"), temperature=0.7, top_p=0.9, seed=2**64 - 1, logprobs=0)
    client.generate("x", sampling=params, model="fake", request_id="id", placement=Placement.COLOCATED, linger=1.5)
    request = server.requests[-1]
    assert request.sampling == params
    assert (request.model, request.request_id, request.placement) == ("fake", "id", Placement.COLOCATED)
    assert (request.linger_seconds, request.resume) == (1.5, None)


def test_every_request_has_an_id_of_its_own(server: FakeServer, client: Client) -> None:
    with client.stream("x") as stream:
        known_at_once = stream.request_id
        assert stream.result().request_id == known_at_once
    ids = [known_at_once, *(client.generate("x").request_id for _ in range(2))]
    assert [request.request_id for request in server.requests] == ids
    assert len(set(ids)) == 3


def test_sampling_may_be_given_as_keywords(server: FakeServer, client: Client) -> None:
    client.generate("x", max_tokens=5, stop=["a"], stop_token_ids=[3], temperature=0)
    assert server.requests[-1].sampling == SamplingParams(
        max_tokens=5, stop=("a",), stop_token_ids=(3,), temperature=0
    )
    client.generate("x", stop="ab")
    assert server.requests[-1].sampling == SamplingParams(stop=("ab",))


def test_sampling_and_keywords_exclude_each_other(client: Client) -> None:
    with pytest.raises(InvalidArgument, match=r"not both: max_tokens, seed") as caught:
        client.generate("x", sampling=SamplingParams(), max_tokens=5, seed=1)
    assert caught.value.field == "sampling"


def test_an_unknown_keyword_is_a_type_error(client: Client) -> None:
    with pytest.raises(TypeError, match="max_token"):
        client.generate("x", max_token=5)  # type: ignore[call-arg]


def test_chat_puts_images_before_the_text(server: FakeServer, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "seven.png"
    path.write_bytes(b"seven")
    answer = client.chat("Which digits?", images=[path, str(path), b"eight"], max_tokens=4)
    assert server.requests[-1].prompt == ChatInput(
        (
            ChatMessage(
                "user", (ImagePart(b"seven"), ImagePart(b"seven"), ImagePart(b"eight"), TextPart("Which digits?"))
            ),
        )
    )
    assert answer.usage.image_tokens == 48


def test_images_beside_messages_are_refused(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="content parts"):
        client.chat([user_message("Hi")], images=[b"x"])


def test_an_image_file_that_cannot_be_read_is_named(client: Client, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no-such\.png"):
        client.chat("?", images=[tmp_path / "no-such.png"])
    with pytest.raises(InvalidArgument, match=str(tmp_path)):
        client.chat("?", images=[tmp_path])
    with pytest.raises(InvalidArgument, match="null"):
        client.chat("?", images=["a\0b"])
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate(MAX_MESSAGE_BYTES)
    with pytest.raises(ResourceExhausted, match=rf"huge\.png has {MAX_MESSAGE_BYTES} bytes.*64 MiB"):
        client.chat("?", images=[huge])


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        ("", "text"),
        ([], "prompt"),
        (b"bytes", "prompt"),
        (None, "prompt"),
        ([1, "a"], "prompt"),
        ([1.5], "prompt"),
        ([2**31], "prompt"),
        ("\ud800", "prompt"),
        (user_message("Hi"), "prompt"),
        ([{"role": "user"}], "chat.messages[0]"),
        ([{"role": "user", "content": "Hi", "names": "x"}], "chat.messages[0]"),
        ([{"role": "user", "content": "Hi", "name": 3}], "chat.messages[0].name"),
        ([{"role": "assistant", "tool_calls": "look"}], "chat.messages[0].tool_calls"),
        ([{"role": "assistant", "tool_calls": [{"name": "look"}]}], "chat.messages[0].tool_calls[0]"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": [1]}}]}],
            "chat.messages[0].tool_calls[0].arguments",
        ),
        ([{"role": "user", "content": 3}], "chat.messages[0].content"),
        ([{"role": "user", "content": [b"?"]}], "chat.messages[0].content"),
        ([user_message("Hi"), {"role": "robot", "content": "Hi"}], "chat.messages[1].role"),
        ([{"role": "user", "content": [ImagePart(b"")]}], "chat.messages[0].parts[0].image"),
    ],
)
def test_a_wrong_prompt_is_refused_by_name(client: Client, prompt: object, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.generate(prompt)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_tokenize_and_detokenize(client: Client) -> None:
    assert client.tokenize("Hé") == (72, 195, 169)
    assert client.tokenize([user_message("H")]) == (72,)
    assert client.detokenize([72, 195, 169]) == "Hé"
    with pytest.raises(InvalidArgument, match="token ids already"):
        client.tokenize([1, 2])  # type: ignore[list-item]
    for token_id in (300, 2**31):
        with pytest.raises(InvalidArgument) as caught:
            client.detokenize([token_id])
        assert caught.value.field == "token_ids"
    with pytest.raises(InvalidArgument, match="prompt cannot be sent"):
        client.tokenize("\ud800")


def test_models(client: Client) -> None:
    (model,) = client.models()
    assert (model.name, model.context_length, model.accepts_images, model.vocabulary_size) == (
        "fake",
        2048,
        True,
        256,
    )


def test_a_video_is_its_frames_from_files_or_bytes(tmp_path: Path) -> None:
    (tmp_path / "second.png").write_bytes(b"two")
    video = load_video([b"one", tmp_path / "second.png", ImagePart(b"three")], fps=2.5)
    assert video == VideoPart((b"one", b"two", b"three"), 2.5)
    prompt = to_prompt([{"role": "user", "content": [video, "What moves?"]}])
    assert prompt == ChatInput((ChatMessage("user", (video, TextPart("What moves?"))),))
