"""A client never loses an answer: connections break, the router is restarted, every answer is what it was to be."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.support.brakes import Brake
from triptych.client import AlreadyExists, Client, Generation, TextStream, TriptychError
from triptych.client.requests import GenerateOptions, generation_request
from triptych.core.generation import PositionLogprobs
from triptych.core.sampling import seed_of
from triptych.inference.v1 import inference_pb2 as pb
from triptych.inference.v1 import inference_pb2_grpc
from triptych.wire.status import error_from_rpc

ROOMY = {"kv_cache__memory": "16MiB"}
CLOSE = 1e-3


@dataclass(frozen=True)
class Question:
    """Something to ask twice under the same id, which determines the random numbers."""

    prompt: Any
    options: GenerateOptions
    undisturbed: list[Generation] = field(default_factory=list)

    def require(self, answer: Generation) -> None:
        """The answer is the undisturbed one: text, tokens, log-probabilities, counts and end."""
        [expected] = self.undisturbed
        assert (answer.token_ids, answer.text) == (expected.token_ids, expected.text)
        assert (answer.request_id, answer.finish_reason) == (expected.request_id, expected.finish_reason)
        assert len(answer.logprobs) == len(expected.logprobs) == len(answer.token_ids)
        for ours, theirs in zip(answer.logprobs, expected.logprobs, strict=True):
            assert close(ours, theirs)
        for name in ("prompt_tokens", "completion_tokens", "image_tokens"):
            assert getattr(answer.usage, name) == getattr(expected.usage, name)


def ask_undisturbed(client: Client, asked: list[Question]) -> None:
    """What the answers are when nothing happens."""
    streams = [client.stream(question.prompt, **question.options) for question in asked]
    for question, stream in zip(asked, streams, strict=True):
        question.undisturbed.append(stream.result())


def close(ours: PositionLogprobs, theirs: PositionLogprobs) -> bool:
    """Equal but for the order of sums."""
    return abs(ours.logprob - theirs.logprob) < CLOSE


@pytest.fixture
def questions(ask: Callable[..., Any], oracle: Any, rng: np.random.Generator) -> Callable[..., list[Question]]:
    """Questions of two kinds, greedy ones and sampled ones that were given no seed; none is a matter of rounding."""

    def make(model: Path, count: int, max_tokens: int) -> list[Question]:
        base: GenerateOptions = {"max_tokens": max_tokens, "ignore_eos": True, "logprobs": 1}
        found: list[Question] = []
        while len(found) < count:
            prompt, request_id = ask(6), f"q{rng.integers(2**60)}"
            options: GenerateOptions = {**base, "temperature": 0.0 if len(found) < count // 2 else 0.8}
            if oracle.sampled(model, prompt, **options, seed=seed_of(request_id)):
                found.append(Question(prompt, {**options, "request_id": request_id}))
        return found

    return make


def read(stream: TextStream, tokens: int) -> None:
    """Reads until so many tokens have come."""
    while tokens > 0 and (chunk := next(stream, None)):
        tokens -= len(chunk.token_ids)


@pytest.mark.parametrize("layout", ["1D", "1P1D"])
def test_eight_streams_outlive_two_restarts_of_the_router(
    layout: str, start: Any, tiny_llama: Path, questions: Any, rng: np.random.Generator, eventually: Any
) -> None:
    """Seven are anywhere when it happens; the last one is in the middle of its answer."""
    cluster = start(tiny_llama, layout, **ROOMY)
    asked = questions(tiny_llama, 8, 100)
    ask_undisturbed(cluster.client, asked)
    brake, last = cluster.brake("decode-0"), asked[-1].options["request_id"]
    brake.release()
    streams = [cluster.client.stream(q.prompt, **q.options) for q in asked[:-1]]
    with ThreadPoolExecutor(1) as threads:
        for _ in range(2):
            for stream in streams[:7]:
                read(stream, int(rng.integers(1, 20)))
            brake.hold()
            if len(streams) == 7:
                streams.append(cluster.client.stream(asked[-1].prompt, **asked[-1].options))
            reading = threads.submit(read, streams[-1], int(rng.integers(1, 20)))
            eventually(lambda: cluster.at_step("decode-0", last))
            brake.allow(40)
            reading.result()
            cluster.restart_router()
            eventually(lambda: not cluster.at_step("decode-0"))
            brake.release()
    for question, stream in zip(asked, streams, strict=True):
        question.require(stream.result())
    assert cluster.client.status().router.resumed_requests
    cluster.require_idle()


def test_whole_answers_outlive_a_restart_too(start: Any, tiny_llama: Path, questions: Any, eventually: Any) -> None:
    cluster = start(tiny_llama, "1P1D", **ROOMY)
    asked = questions(tiny_llama, 4, 100)
    ask_undisturbed(cluster.client, asked)
    brake = cluster.brake("decode-0")
    with ThreadPoolExecutor(len(asked)) as threads:
        answers = [threads.submit(cluster.client.generate, q.prompt, **q.options) for q in asked]
        eventually(lambda: cluster.client.status().router.running_requests == len(asked))
        cluster.restart_router()
        brake.release()
        for question, answer in zip(asked, answers, strict=True):
            question.require(answer.result())
    cluster.require_idle()


def test_an_answer_about_pictures_outlives_a_restart(
    start: Any, tiny_llava: Path, ask: Any, oracle: Any, rng: np.random.Generator
) -> None:
    cluster = start(tiny_llava, "1E1P1D", **ROOMY)
    [(prompt, tokens)] = oracle.questions(tiny_llava, lambda: ask(4, images=2), 1, 60)
    question = Question(prompt, {"max_tokens": 60, "ignore_eos": True, "logprobs": 1, "temperature": 0.0})
    stream = cluster.client.stream(question.prompt, **question.options)
    read(stream, int(rng.integers(1, 10)))
    cluster.restart_router()
    assert stream.result().token_ids == tokens
    cluster.require_idle()


@pytest.mark.parametrize("linger", [0.0, 30.0])
def test_streams_whose_wire_is_cut_go_on_over_another(
    linger: float, start: Any, tiny_llama: Path, questions: Any, proxy_to: Any, rng: np.random.Generator
) -> None:
    cluster = start(tiny_llama, "1P1D", **ROOMY)
    asked = questions(tiny_llama, 6, 80)
    ask_undisturbed(cluster.client, asked)
    with proxy_to(cluster.address) as wire, Client(wire.address, timeout=60) as client:
        streams = [client.stream(q.prompt, linger=linger, **q.options) for q in asked]
        for _ in range(3):
            for stream in streams:
                read(stream, int(rng.integers(1, 8)))
            wire.cut()
        for question, stream in zip(asked, streams, strict=True):
            question.require(stream.result())
    cluster.require_idle()


@dataclass(frozen=True)
class Raw:
    """A client that does nothing by itself."""

    stub: Any
    body: pb.GenerationInput

    def begin(self, tokens: int) -> tuple[Any, list[int], str]:
        """Reads at least so many tokens; the call, the tokens and their text."""
        call = self.stub.GenerateStream(pb.GenerateStreamRequest(input=self.body))
        ids: list[int] = []
        text = ""
        while len(ids) < tokens:
            message = next(call)
            ids += message.token_ids
            text += message.text
        return call, ids, text

    def come_back(self, received: list[int]) -> tuple[list[int], str]:
        """The rest of the answer."""
        body = pb.GenerationInput()
        body.CopyFrom(self.body)
        body.resume.CopyFrom(pb.Resume(received_token_ids=received))
        messages = list(self.stub.GenerateStream(pb.GenerateStreamRequest(input=body)))
        return [i for message in messages for i in message.token_ids], "".join(m.text for m in messages)


@pytest.fixture
def raw(start: Any, tiny_llama: Path, questions: Any) -> Any:
    """A cluster, a client of it that lingers for 30 seconds, what it is to hear, and what holds its answer up."""
    channels = []

    def make() -> tuple[Any, Raw, Generation, Brake]:
        cluster = start(tiny_llama, "1P1D", **ROOMY)
        [_, question] = questions(tiny_llama, 2, 80)
        ask_undisturbed(cluster.client, [question])
        channels.append(grpc.insecure_channel(cluster.address))
        options: GenerateOptions = {**question.options, "linger": 30.0}  # type: ignore[typeddict-item]
        body = generation_request(question.prompt, options)
        stub = inference_pb2_grpc.InferenceServiceStub(channels[-1])
        brake = cluster.brake("decode-0")
        brake.allow(20)
        return cluster, Raw(stub, body), question.undisturbed[0], brake

    yield make
    for channel in channels:
        channel.close()


def prefilled(cluster: Any) -> int:
    return sum(cluster.host(name).panel.decoding.stage.prefilled_tokens for name in ("prefill-0", "decode-0"))


def test_a_client_that_is_away_finds_its_answer_finished(raw: Any, eventually: Any) -> None:
    cluster, client, expected, brake = raw()
    call, ids, text = client.begin(5)
    call.cancel()
    eventually(lambda: cluster.away() == 1)
    brake.release()
    eventually(lambda: cluster.client.status().router.finished_requests == 2)
    before = prefilled(cluster)
    more_ids, more_text = client.come_back(ids)
    assert tuple(ids + more_ids) == expected.token_ids
    assert text + more_text == expected.text
    assert prefilled(cluster) == before, "nothing was computed again"
    assert cluster.client.status().router.resumed_requests == 1
    ids_again, text_again = client.come_back([])  # it has left with its answer: a new request of the same id
    assert (tuple(ids_again), text_again) == (expected.token_ids, expected.text)


def test_a_client_may_come_back_while_its_old_connection_looks_alive(raw: Any, eventually: Any) -> None:
    cluster, client, expected, brake = raw()
    call, ids, text = client.begin(5)
    with ThreadPoolExecutor(1) as threads:
        coming_back = threads.submit(client.come_back, ids)
        eventually(lambda: cluster.client.status().router.resumed_requests == 1)
        brake.release()
        more_ids, more_text = coming_back.result()
    assert (tuple(ids + more_ids), text + more_text) == (expected.token_ids, expected.text)
    with pytest.raises(grpc.RpcError) as caught:
        for _ in call:
            pass
    assert "by another connection" in str(caught.value)
    assert cluster.client.status().router.cancelled_requests == 0


def test_leaving_a_stream_that_lingers_ends_it_all_the_same(start: Any, tiny_llama: Path, ask: Any) -> None:
    cluster = start(tiny_llama, "1P1D", **ROOMY)
    with cluster.client.stream(ask(4), linger=30, max_tokens=2000, ignore_eos=True) as stream:
        next(stream)
    with Client(cluster.address) as client:
        next(client.stream(ask(4), linger=30, max_tokens=2000, ignore_eos=True))
    cluster.require_idle()


def test_without_its_router_a_client_is_told_the_end_of_what_it_has(raw: Any) -> None:
    cluster, client, expected, brake = raw()
    brake.release()
    cluster.restart_router()
    for received in (expected.token_ids, expected.token_ids[:-1]):
        ids, _ = client.come_back(list(received))
        assert (*received, *ids) == expected.token_ids


def test_another_prompt_under_the_same_id_is_refused(raw: Any, ask: Any) -> None:
    cluster, client, _, _ = raw()
    call, ids, _ = client.begin(5)
    call.cancel()
    other = Raw(client.stub, pb.GenerationInput())
    other.body.CopyFrom(client.body)
    other.body.text = ask(7)
    with pytest.raises(grpc.RpcError) as caught:
        other.come_back(ids)
    error: TriptychError = error_from_rpc(caught.value, address=cluster.address)
    assert isinstance(error, AlreadyExists)
    cluster.client.cancel(client.body.request_id)
    with pytest.raises(grpc.RpcError, match="cancelled by an operator"):
        client.come_back(ids)
