"""Every wrong request gets a status, a field, a limit and a value in plain words; the next right one is answered."""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from triptych.admin.v1 import admin_pb2, admin_pb2_grpc
from triptych.core.errors import ResourceExhausted
from triptych.inference.v1 import inference_pb2 as pb
from triptych.inference.v1 import inference_pb2_grpc, sampling_pb2

Code = grpc.StatusCode
CONTEXT = 128
NAN, INFINITY = float("nan"), float("inf")


@dataclass(frozen=True)
class Refusal:
    code: grpc.StatusCode
    message: str
    field: str


@dataclass(frozen=True)
class Door:
    """The raw services of a cluster: what a client in any language can send."""

    inference: Any
    admin: Any

    def refusal(self, method: Callable[[Any], Any], request: Any) -> Refusal:
        """How a request is refused; a right one sent right after it must be answered."""
        with pytest.raises(grpc.RpcError) as caught:
            method(request)
        error: Any = caught.value
        rich = rpc_status.from_call(error)
        violated = error_details_pb2.BadRequest()
        for detail in rich.details if rich else ():
            detail.Unpack(violated)
        fields = [violation.field for violation in violated.field_violations]
        assert "Traceback" not in error.details()
        assert self.answer() == 3
        return Refusal(error.code(), error.details(), *(fields or [""]))

    def refused(self, **fields: Any) -> Refusal:
        """How a generation is refused, whole or streamed alike."""
        body = pb.GenerationInput(**fields)
        whole = self.refusal(self.inference.Generate, pb.GenerateRequest(input=body))
        streamed = self.refusal(
            lambda request: list(self.inference.GenerateStream(request)), pb.GenerateStreamRequest(input=body)
        )
        assert whole == streamed
        return whole

    def answer(self) -> int:
        sampling = sampling_pb2.SamplingParams(max_tokens=3, ignore_eos=True)
        body = pb.GenerationInput(text="all right", sampling=sampling)
        return len(self.inference.Generate(pb.GenerateRequest(input=body), timeout=60).token_ids)


@pytest.fixture(scope="module")
def cluster(running: Any, tiny_llama: Path) -> Iterator[Any]:
    with running(tiny_llama, "1P1D", context_length=CONTEXT) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def seeing_cluster(running: Any, tiny_llava: Path) -> Iterator[Any]:
    with running(tiny_llava, "1E1P1D") as cluster:
        yield cluster


def door_of(cluster: Any) -> Iterator[Door]:
    with grpc.insecure_channel(cluster.address, options=[("grpc.max_send_message_length", -1)]) as channel:
        yield Door(inference_pb2_grpc.InferenceServiceStub(channel), admin_pb2_grpc.AdminServiceStub(channel))


@pytest.fixture
def door(cluster: Any) -> Iterator[Door]:
    """The text model's."""
    yield from door_of(cluster)


@pytest.fixture
def seeing(seeing_cluster: Any) -> Iterator[Door]:
    """The vision model's."""
    yield from door_of(seeing_cluster)


def test_an_unknown_model(door: Door) -> None:
    refusal = door.refused(model="other/model", text="hello")
    assert refusal == Refusal(Code.NOT_FOUND, "model 'other/model' is not served here; 'tiny' is", "model")


@pytest.mark.parametrize("length", [CONTEXT, CONTEXT + 7, 50_000])
def test_a_prompt_longer_than_the_context(door: Door, length: int) -> None:
    for prompt in ({"text": "x" * length}, {"token_ids": pb.TokenIds(ids=[9] * length)}):
        refusal = door.refused(**prompt)
        assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, "prompt")
        assert f"the context holds {CONTEXT} tokens; the prompt has {length}" in refusal.message


def test_a_prompt_that_no_tokenizer_needs_to_see(door: Door) -> None:
    refusal = door.refused(text="x" * 2_000_000)
    assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, "prompt")
    assert "at most" in refusal.message
    assert "2000000" in refusal.message


def test_an_answer_longer_than_the_context(door: Door) -> None:
    refusal = door.refused(text="x" * 28, sampling=sampling_pb2.SamplingParams(max_tokens=101))
    assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, "sampling.max_tokens")
    assert refusal.message == f"the context holds {CONTEXT} tokens; the prompt has 28 and max_tokens is 101"


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        ({}, "prompt"),
        ({"text": ""}, "text"),
        ({"token_ids": pb.TokenIds()}, "token_ids"),
        ({"chat": pb.Chat()}, "chat"),
        ({"chat": pb.Chat(messages=[pb.ChatMessage(role="user")])}, "chat.messages"),
        ({"chat": pb.Chat(messages=[pb.ChatMessage(role="user", parts=[pb.ContentPart(text="")])])}, "chat.messages"),
        (
            {"chat": pb.Chat(messages=[pb.ChatMessage(role="user", parts=[pb.ContentPart()])])},
            "chat.messages[0].parts[0]",
        ),
    ],
)
def test_an_empty_prompt(door: Door, prompt: dict[str, Any], field: str) -> None:
    refusal = door.refused(**prompt)
    assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, field)
    assert any(word in refusal.message for word in ("empty", "no prompt", "neither text nor an image"))


def test_a_stop_text_that_is_not_utf8(door: Door) -> None:
    refusal = door.refused(text="hello", sampling=sampling_pb2.SamplingParams(stop=[b"fine", b"ab\xff\xfe"]))
    assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, "sampling.stop[1]")
    assert "not UTF-8" in refusal.message
    assert "byte 2 of 4" in refusal.message


@pytest.mark.parametrize(
    ("field", "limits", "values"),
    [
        ("temperature", ("0", "100"), (-0.5, NAN, INFINITY, -INFINITY, 101.0)),
        ("top_k", ("0", "2147483647"), (-1, -(2**31))),
        ("top_p", ("0", "1"), (0.0, -0.1, 1.5, NAN)),
        ("min_p", ("0", "1"), (-0.1, 1.5, NAN)),
        ("repetition_penalty", ("0", "100"), (0.0, -1.0, NAN)),
        ("presence_penalty", ("-2", "2"), (-2.5, 2.5, NAN)),
        ("frequency_penalty", ("-2", "2"), (-2.5, 2.5, NAN)),
        ("max_tokens", ("1", "2147483647"), (0, -7)),
        ("logprobs", ("0", "20"), (-1, 21)),
    ],
)
def test_sampling_values_out_of_their_limits(
    door: Door, field: str, limits: tuple[str, str], values: tuple[float, ...]
) -> None:
    for value in values:
        refusal = door.refused(text="hello", sampling=sampling_pb2.SamplingParams(**{field: value}))
        assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, f"sampling.{field}")
        for part in (f"sampling.{field}", *limits, f"{value:g}" if isinstance(value, float) else str(value)):
            assert part in refusal.message


@pytest.mark.parametrize(
    ("sampling", "field", "parts"),
    [
        ({"stop": [b"x"] * 17}, "sampling.stop", ("16", "17")),
        ({"stop": [b"x", b""]}, "sampling.stop", ("1 to 256", "''")),
        ({"stop": [b"x" * 257]}, "sampling.stop", ("1 to 256", "xxx")),
        ({"stop_token_ids": [-3]}, "sampling.stop_token_ids", ("0", "-3")),
        ({"stop_token_ids": [5, 260]}, "sampling.stop_token_ids", ("260",)),
    ],
)
def test_stops_out_of_their_limits(door: Door, sampling: dict[str, Any], field: str, parts: tuple[str, ...]) -> None:
    refusal = door.refused(text="hello", sampling=sampling_pb2.SamplingParams(**sampling))
    assert refusal.code is Code.INVALID_ARGUMENT
    assert refusal.field.startswith(field)
    assert all(part in refusal.message for part in parts)


@pytest.mark.parametrize(
    ("request_fields", "field", "parts"),
    [
        ({"token_ids": pb.TokenIds(ids=[5, 260])}, "token_ids[1]", ("[0, 259]", "260")),
        ({"token_ids": pb.TokenIds(ids=[-1])}, "token_ids[0]", ("[0, 259]", "-1")),
        ({"text": "hello", "request_id": "r" * 129}, "request_id", ("128", "129")),
        ({"text": "hello", "request_id": "a\nb"}, "request_id", ("printable", "a\\nb")),
        ({"text": "hello", "placement": 9}, "placement", ("9",)),
        ({"chat": pb.Chat(messages=[pb.ChatMessage(role="robot")])}, "chat.messages[0].role", ("user", "'robot'")),
    ],
)
def test_other_fields_out_of_their_limits(
    door: Door, request_fields: dict[str, Any], field: str, parts: tuple[str, ...]
) -> None:
    refusal = door.refused(**request_fields)
    assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, field)
    assert all(part in refusal.message for part in parts)


def chat_with(*images: bytes) -> pb.Chat:
    parts = [pb.ContentPart(image=pb.Image(data=data)) for data in images]
    return pb.Chat(messages=[pb.ChatMessage(role="user", parts=[pb.ContentPart(text="What is it?"), *parts])])


IMAGE_FIELD = "chat.messages[0].parts[1].image"


def png(width: int, height: int, *chunks: tuple[bytes, bytes], data: bytes = b"") -> bytes:
    """A one-bit PNG file with `data` as its compressed pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    middle = b"".join(chunk(kind, body) for kind, body in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + middle + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def zeros(size: int) -> bytes:
    """`size` zero bytes, compressed."""
    packer = zlib.compressobj(9)
    block = bytes(1 << 20)
    packed = [packer.compress(block[: min(len(block), size - done)]) for done in range(0, size, len(block))]
    return b"".join([*packed, packer.flush()])


def test_a_small_header_that_claims_a_huge_picture(seeing: Door) -> None:
    refusal = seeing.refused(chat=chat_with(png(100_000, 100_000, data=zeros(100))))
    assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, IMAGE_FIELD)
    for part in ("50000000 pixels", "100000 x 100000", "10000000000"):
        assert part in refusal.message


def test_a_small_file_that_really_holds_a_huge_picture(seeing: Door) -> None:
    side = 30_000
    bomb = png(side, side, data=zeros((side // 8 + 1) * side))
    assert len(bomb) < 200_000
    refusal = seeing.refused(chat=chat_with(bomb))
    assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, IMAGE_FIELD)
    assert "30000 x 30000 = 900000000" in refusal.message


def test_a_picture_whose_comment_is_the_bomb(seeing: Door) -> None:
    bomb = png(8, 8, (b"zTXt", b"Comment\0\0" + zeros(200 << 20)), data=zeros(16))
    refusal = seeing.refused(chat=chat_with(bomb))
    assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, IMAGE_FIELD)
    assert "PNG" in refusal.message


@pytest.mark.parametrize("data", [b"hello, world", b"\x89PNG\r\n\x1a\n", b"GIF89a\x01", b"%PDF-1.7 " + bytes(100)])
def test_an_image_that_is_not_an_image(seeing: Door, data: bytes) -> None:
    refusal = seeing.refused(chat=chat_with(data))
    assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, IMAGE_FIELD)
    assert f"{len(data)} bytes" in refusal.message


def test_an_image_that_ends_too_soon(seeing: Door, rng: np.random.Generator) -> None:
    whole = png(64, 64, data=zlib.compress(rng.bytes(9 * 64)))
    refusal = seeing.refused(chat=chat_with(whole[:120]))
    assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, IMAGE_FIELD)
    assert "damaged" in refusal.message


def test_an_image_of_too_many_bytes(seeing: Door) -> None:
    data = png(8, 8) + bytes(21 << 20)
    refusal = seeing.refused(chat=chat_with(data))
    assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, IMAGE_FIELD)
    assert str(20 << 20) in refusal.message
    assert str(len(data)) in refusal.message


def test_too_many_images(seeing: Door) -> None:
    refusal = seeing.refused(chat=chat_with(*[png(8, 8)] * 17))
    assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, "chat.messages")
    assert "at most 16 images, got 17" in refusal.message


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://example.com/cat.png", "must be a data URI"),
        ("data:text/plain;base64,aGVsbG8=", "image/png"),
        ("data:image/png;base64,!!!!", "broken base64"),
        ("data:image/png;base64,aGVsbG8=", "not an image"),
    ],
)
def test_data_uris(seeing: Door, uri: str, words: str) -> None:
    part = pb.ContentPart(image=pb.Image(data_uri=uri))
    refusal = seeing.refused(chat=pb.Chat(messages=[pb.ChatMessage(role="user", parts=[part])]))
    assert refusal.code is Code.INVALID_ARGUMENT
    assert refusal.field.startswith("chat.messages[0].parts[0].image")
    assert words in refusal.message


def test_an_image_for_a_model_that_reads_text_only(door: Door) -> None:
    refusal = door.refused(chat=chat_with(png(8, 8)))
    assert (refusal.code, refusal.field) == (Code.FAILED_PRECONDITION, IMAGE_FIELD)
    assert refusal.message == "tiny reads text only; it was sent an image"


def test_an_image_token_without_an_image(seeing: Door) -> None:
    for prompt in ({"text": "look: <image>"}, {"token_ids": pb.TokenIds(ids=[9, 3])}):
        refusal = seeing.refused(**prompt)
        assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, next(iter(prompt)))
        assert "image token 3" in refusal.message


def test_a_message_of_65_megabytes(door: Door, cluster: Any) -> None:
    size, limit = 65 << 20, 64 << 20
    request = pb.GenerateRequest(input=pb.GenerationInput(text="x" * size))
    refusal = door.refusal(door.inference.Generate, request)
    assert refusal.code is Code.RESOURCE_EXHAUSTED
    assert f"({request.ByteSize()} vs. {limit})" in refusal.message
    with pytest.raises(ResourceExhausted, match=rf"\d+ bytes; the limit is {limit} bytes \(64 MiB\)"):
        cluster.client.generate("x" * size)
    assert door.answer() == 3


def test_images_that_just_fit_a_message(seeing: Door, seeing_cluster: Any, rng: np.random.Generator) -> None:
    """What the front door lets in fits the way to the encode worker, which then sees that it is damaged."""
    images = [png(8, 8) + rng.bytes((16 << 20) - 160 - number) for number in range(4)]
    body = pb.GenerationInput(chat=chat_with(*images))
    request = pb.GenerateRequest(input=body)
    assert (64 << 20) - 512 < request.ByteSize() < 64 << 20
    refusal = seeing.refusal(seeing.inference.Generate, request)
    assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, IMAGE_FIELD)
    assert [worker.restarts for worker in seeing_cluster.client.status().workers] == [0, 0, 0]


def test_an_unknown_id_to_cancel(door: Door) -> None:
    for request_id in ("nobody", ""):
        request = admin_pb2.CancelGenerationRequest(request_id=request_id)
        refusal = door.refusal(door.admin.CancelGeneration, request)
        assert (refusal.code, refusal.field) == (Code.NOT_FOUND, "request_id")
        assert repr(request_id) in refusal.message


@pytest.mark.parametrize("call", ["Tokenize", "Detokenize"])
def test_the_small_services(door: Door, call: str) -> None:
    method = getattr(door.inference, call)
    kind = {"Tokenize": pb.TokenizeRequest, "Detokenize": pb.DetokenizeRequest}[call]
    unknown = door.refusal(method, kind(model="other"))
    assert (unknown.code, unknown.field) == (Code.NOT_FOUND, "model")
    if call == "Tokenize":
        assert door.refusal(method, kind()).field == "prompt"
        assert door.refusal(method, kind(text="x" * 2_000_000)).field == "prompt"
    else:
        refusal = door.refusal(method, kind(token_ids=[4, 999]))
        assert (refusal.code, refusal.field) == (Code.INVALID_ARGUMENT, "token_ids[1]")
        assert "[0, 259]" in refusal.message
        assert "999" in refusal.message
