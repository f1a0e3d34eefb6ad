import base64
import random

import pytest

from tests.support.seeds import drawn_seed
from triptych.core.chat import ChatEnd, ChatOptions, ToolCall
from triptych.core.errors import InvalidArgument
from triptych.core.inputs import ChatInput, GenerationInput, TextInput, TokenInput
from triptych.core.plan import Placement
from triptych.core.prompt import ChatMessage, ImagePart, TextPart, VideoPart
from triptych.core.sampling import SamplingParams
from triptych.inference.v1 import inference_pb2 as pb
from triptych.wire.data_uri import parse_data_uri
from triptych.wire.prompt import chat_from_proto, chat_to_proto, picture_bytes, prompt_from_proto
from triptych.wire.request import MAX_REQUEST_ID, generation_from_proto, generation_to_proto

CONVERSATION = (
    ChatMessage("system", (TextPart("Be short."),)),
    ChatMessage("user", (ImagePart(b"\x89PNG"), TextPart("What is it?"), ImagePart(b"GIF8"))),
    ChatMessage("assistant", (), (ToolCall("look", '{"b": 1, "a": 1.0}', "1"), ToolCall("wait")), reasoning="Hm."),
    ChatMessage("tool", (TextPart("seven"),), tool_call_id="1", name="look"),
)
OPTIONS = ChatOptions(('{"type": "function"}', "{}"), '{"enable_thinking": false}', ChatEnd.CONTINUE)


@pytest.mark.parametrize("prompt", [TextInput("é"), TokenInput((0, 2**31 - 1)), ChatInput(CONVERSATION, OPTIONS)])
@pytest.mark.parametrize("placement", list(Placement))
def test_a_request_survives_the_wire(prompt: TextInput | TokenInput | ChatInput, placement: Placement) -> None:
    request = GenerationInput(prompt, SamplingParams(max_tokens=3), "model", "id", placement)
    assert _there_and_back(request) == request


@pytest.mark.parametrize("resume", [None, (), (7, 0, 2**31 - 1)])
@pytest.mark.parametrize("linger", [0.0, 1.25])
def test_coming_back_survives_the_wire(resume: tuple[int, ...] | None, linger: float) -> None:
    request = GenerationInput(TextInput("x"), request_id="id", linger_seconds=linger, resume=resume, adapter="one")
    assert _there_and_back(request) == request


def test_coming_back_for_several_answers_survives_the_wire() -> None:
    sampling = SamplingParams(n=3)
    request = GenerationInput(TextInput("x"), sampling, request_id="id", resume=(1,), resume_others=((), (2, 3)))
    assert _there_and_back(request) == request
    assert [request.received(index) for index in range(4)] == [(1,), (), (2, 3), ()]
    assert GenerationInput(TextInput("x")).received(1) is None
    message = generation_to_proto(request)
    message.sampling.n = 2
    with pytest.raises(InvalidArgument, match="at most 1 answers") as caught:
        generation_from_proto(message)
    assert caught.value.field == "resume.other_choices"


def _there_and_back(request: GenerationInput) -> GenerationInput:
    return generation_from_proto(pb.GenerationInput.FromString(generation_to_proto(request).SerializeToString()))


def test_pictures_are_weighed_as_they_came() -> None:
    uri = pb.ContentPart(image=pb.Image(data_uri="data:image/png;base64,AAAA"))
    message = generation_to_proto(GenerationInput(ChatInput(CONVERSATION)))
    message.chat.messages[1].parts.append(uri)
    assert picture_bytes(message) == 4 + 4 + 26
    assert picture_bytes(pb.GenerationInput(text="x")) == 0


def test_a_video_survives_the_wire_and_weighs_what_its_frames_do() -> None:
    video = VideoPart((b"\x89PNG", b"GIF8."), 0.5)
    request = GenerationInput(ChatInput((ChatMessage("user", (video, TextPart("What moves?"))),)))
    assert _there_and_back(request) == request
    assert picture_bytes(generation_to_proto(request)) == 4 + 5


@pytest.mark.parametrize(
    ("video", "field"),
    [
        (pb.Video(fps=1), "frames"),
        (pb.Video(frames=[pb.Image(data=b"x")]), "fps"),
        (pb.Video(frames=[pb.Image(data=b"x")], fps=-2), "fps"),
        (pb.Video(frames=[pb.Image(data=b"x")], fps=float("nan")), "fps"),
        (pb.Video(frames=[pb.Image(data=b"x")], fps=float("inf")), "fps"),
        (pb.Video(frames=[pb.Image(data=b"x"), pb.Image(data=b"")], fps=2), "frames[1]"),
        (pb.Video(frames=[pb.Image(data_uri="http://x")], fps=2), "frames[0].data_uri"),
    ],
)
def test_a_video_without_frames_or_speed_is_refused_by_name(video: pb.Video, field: str) -> None:
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", parts=[pb.ContentPart(video=video)])])
    with pytest.raises(InvalidArgument) as caught:
        chat_from_proto(chat)
    assert caught.value.field == f"chat.messages[0].parts[0].video.{field}"


def test_a_data_uri_and_its_bytes_are_the_same_image() -> None:
    seed = drawn_seed()
    data = random.Random(seed).randbytes(1000)
    uri = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    part = pb.ContentPart(image=pb.Image(data_uri=uri))
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", parts=[part])])
    assert chat_from_proto(chat) == ChatInput((ChatMessage("user", (ImagePart(data),)),))
    assert chat_from_proto(chat_to_proto(chat_from_proto(chat))) == chat_from_proto(chat)
    assert parse_data_uri(uri.replace("data:image/png", "DATA:IMAGE/PNG")) == data


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "must be a data URI"),
        ("http://host/x.png", "must be a data URI"),
        ("data:image/png;base64", "must be a data URI"),
        ("date:image/png;base64,AAAA", "must be a data URI"),
        ("data:,AAAA", "must be one of image/bmp"),
        ("data:text/plain;base64,AAAA", "must be one of .*'text/plain'"),
        ("data:image/svg+xml;base64,AAAA", "must be one of"),
        ("data:image/png,AAAA", "must be base64 encoded"),
        ("data:image/png;charset=utf-8;base64,AAAA", "must be base64 encoded"),
        ("data:image/png;base64,AAA", "broken base64"),
        ("data:image/png;base64,AA AA", "broken base64"),
        ("data:image/png;base64,AA-_", "broken base64"),
        ("data:image/png;base64,ÄÄÄÄ", "broken base64"),
        ("data:image/png;base64,", "holds no data"),
    ],
)
def test_a_data_uri_is_read_strictly(uri: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        parse_data_uri(uri, field="here")
    assert caught.value.field == "here"


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.GenerationInput(), "prompt"),
        (pb.GenerationInput(text=""), "text"),
        (pb.GenerationInput(token_ids=pb.TokenIds()), "token_ids"),
        (pb.GenerationInput(chat=pb.Chat()), "chat"),
        (pb.TokenizeRequest(), "prompt"),
        (pb.GenerationInput(chat=pb.Chat(messages=[pb.ChatMessage(role="user")], end=9)), "chat.end"),  # type: ignore[arg-type]
        (pb.GenerationInput(chat=pb.Chat(messages=[pb.ChatMessage(role="robot")])), "chat.messages[0].role"),
        (
            pb.GenerationInput(chat=pb.Chat(messages=[pb.ChatMessage(role="user", parts=[pb.ContentPart()])])),
            "chat.messages[0].parts[0]",
        ),
        (
            pb.GenerationInput(
                chat=pb.Chat(
                    messages=[
                        pb.ChatMessage(role="user", parts=[pb.ContentPart(image=pb.Image(data_uri="http://x"))])
                    ]
                )
            ),
            "chat.messages[0].parts[0].image.data_uri",
        ),
    ],
)
def test_a_wrong_prompt_is_refused_by_name(message: pb.GenerationInput | pb.TokenizeRequest, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        prompt_from_proto(message)
    assert caught.value.field == field


@pytest.mark.parametrize("request_id", ["x" * (MAX_REQUEST_ID + 1), "two\nlines"])
def test_a_request_id_is_short_and_printable(request_id: str) -> None:
    with pytest.raises(InvalidArgument, match=str(MAX_REQUEST_ID)) as caught:
        generation_from_proto(pb.GenerationInput(text="x", request_id=request_id))
    assert caught.value.field == "request_id"


def test_an_unknown_placement_is_refused() -> None:
    message = pb.GenerationInput(text="x")
    message.placement = 9  # type: ignore[assignment]
    with pytest.raises(InvalidArgument) as caught:
        generation_from_proto(message)
    assert caught.value.field == "placement"
