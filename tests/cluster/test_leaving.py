"""Whoever leaves, however and whenever: every stage lets go of everything."""

import base64
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triptych.core.errors import Cancelled, DeadlineExceeded, TriptychError
from triptych.core.generation import FinishReason
from triptych.core.prompt import ImagePart, TextPart

pytestmark = pytest.mark.parametrize("block_size", [4, 16])

LONG = {"max_tokens": 3500, "temperature": 0.0, "ignore_eos": True}
ROOMY = {"kv_cache__memory": "64MiB"}


@pytest.mark.parametrize("layout", ["1E1P1D", "1D"])
def test_within_two_seconds_of_a_killed_client_nothing_is_held(
    layout: str, start: Any, tiny_llava: Path, ask: Any, eventually: Any
) -> None:
    cluster = start(tiny_llava, layout, **ROOMY)
    brake = cluster.brake("decode-0")
    prompts = [[ask(4), None] for _ in range(2)]
    for message in (ask(4, images=1)[0] for _ in range(2)):
        [image] = [part.data for part in message.parts if isinstance(part, ImagePart)]
        [*_, question] = [part.text for part in message.parts if isinstance(part, TextPart)]
        prompts.append([question, base64.b64encode(image).decode()])
    script = str(Path(__file__).with_name("leaving_client.py"))
    process = subprocess.Popen(
        [sys.executable, script, cluster.address], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(prompts) + "\n")
        process.stdin.flush()
        eventually(lambda: cluster.at_step("decode-0") == len(prompts), 120)
        brake.allow(200)  # far from the end of their answers
        for _ in prompts[:-1]:
            assert process.stdout.readline() == "streaming\n"

        def held() -> dict[str, tuple[int, int, int]]:
            """As an operator sees it."""
            loads = {worker.worker_id: worker.load for worker in cluster.client.status().workers}
            return {n: (x.running_requests, x.held_blocks, x.held_embeddings) for n, x in loads.items()}

        def everything_is_held() -> bool:
            embeddings = sum(embeddings for _, _, embeddings in held().values())
            return held()["decode-0"][0] >= 4 and held()["decode-0"][1] > 8 and embeddings == 2

        eventually(everything_is_held, 60, held)
        assert process.poll() is None
        process.kill()
        eventually(lambda: not any(map(any, held().values())), 2.0, held)
    finally:
        process.kill()
        process.communicate()
    cluster.require_idle()
    router = cluster.client.status().router
    assert (router.cancelled_requests, router.running_requests, router.awaiting_free) == (4, 0, 0)
    decode = cluster.host("decode-0").panel.decoding.stage
    assert decode.generated_tokens < 4 * LONG["max_tokens"]


@pytest.mark.parametrize("images", [0, 2])
def test_a_deadline_frees_every_stage(images: int, start: Any, tiny_llava: Path, ask: Any) -> None:
    cluster = start(tiny_llava, "1E1P1D", **ROOMY)
    with pytest.raises(DeadlineExceeded):
        cluster.client.generate(ask(4, images=images), timeout=0.4, **LONG)
    cluster.require_idle()
    stream = cluster.client.stream(ask(4, images=images), timeout=0.4, **LONG)
    with pytest.raises(DeadlineExceeded):
        stream.result()
    cluster.require_idle()
    assert cluster.client.generate(ask(4), timeout=30, max_tokens=3, ignore_eos=True).usage.completion_tokens == 3


def test_requests_that_wait_for_blocks_give_up_in_time(start: Any, tiny_llama: Path, ask: Any) -> None:
    """One long answer holds most of the cache; the others never get a ticket."""
    cluster = start(tiny_llama, "1P1D", kv_cache__memory="8MiB")
    cluster.brake("decode-0").allow(20)
    with cluster.client.stream(ask(600), max_tokens=1000, temperature=0.0, ignore_eos=True) as stream:
        next(stream)
        with ThreadPoolExecutor(4) as threads:
            waiting = [threads.submit(cluster.client.generate, ask(240), timeout=0.2) for _ in range(4)]
            assert {type(future.exception()) for future in waiting} == {DeadlineExceeded}
    cluster.require_idle()
    assert cluster.host("prefill-0").panel.decoding.stage.generated_tokens == 1


@pytest.mark.parametrize("layout", ["1D", "1E1P1D"])
def test_an_operator_cancels_a_running_request(layout: str, start: Any, tiny_llava: Path, ask: Any) -> None:
    cluster = start(tiny_llava, layout, **ROOMY)
    cluster.brake("decode-0").allow(20)
    stream = cluster.client.stream(ask(4, images=1), request_id="mine", **LONG)
    next(stream)
    cluster.client.cancel("mine")
    with pytest.raises(Cancelled, match="operator"):
        stream.result()
    cluster.require_idle()
    assert cluster.client.status().router.cancelled_requests == 1


def texts(cluster: Any, questions: Any, model: Path, ask: Any, count: int) -> list[tuple[Any, str]]:
    """Prompts and the texts of 40 tokens of answer, of which some may be hidden or parts of one character."""
    found: list[tuple[Any, str]] = []
    while len(found) < count:
        [(prompt, tokens)] = questions(model, lambda: ask(4), 1, 40)
        if len(text := cluster.client.detokenize(tokens)) > 30:
            found.append((prompt, text))
    return found


def test_a_stop_text_ends_the_work_and_the_answer_before_it(
    start: Any, tiny_llama: Path, oracle: Any, ask: Any
) -> None:
    cluster = start(tiny_llama, "1P1D", **ROOMY)
    [(prompt, text)] = texts(cluster, oracle.questions, tiny_llama, ask, 1)
    stop = text[12:15]
    generation = cluster.client.generate(prompt, stop=[stop], **LONG)
    assert (generation.text, generation.finish_reason) == (text[: text.index(stop)], FinishReason.STOP)
    cluster.require_idle()
    assert cluster.host("decode-0").panel.decoding.stage.generated_tokens < 3000


def test_answers_that_their_stop_texts_end_leave_the_others_what_they_are(
    block_size: int, start: Any, tiny_llama: Path, oracle: Any, ask: Any
) -> None:
    cluster = start(tiny_llama, "1D", kv_cache__memory="8MiB")
    questions = texts(cluster, oracle.questions, tiny_llama, ask, 6)
    stops = [text[4 * place : 4 * place + 3] for place, (_, text) in enumerate(questions, 1)]
    with ThreadPoolExecutor(len(questions)) as threads:
        running = [
            threads.submit(cluster.client.generate, prompt, stop=[stop], **LONG | {"max_tokens": 100})
            for (prompt, _), stop in zip(questions, stops, strict=True)
        ]
        found = [future.result().text for future in running]
    assert found == [text[: text.index(stop)] for (_, text), stop in zip(questions, stops, strict=True)]
    cluster.require_idle()
    assert (cluster.recorded("decode-0") > 0) == (block_size == 16)


@pytest.mark.parametrize("layout", ["2E1P1D", "1E2D"])
def test_clients_that_leave_at_any_moment_leave_nothing_behind(
    layout: str, start: Any, tiny_llava: Path, ask: Any, rng: np.random.Generator, oracle: Any, answers: Any
) -> None:
    """40 requests, each given up after its own random time: while encoding, reserved, in transfer, or decoding."""
    cluster = start(tiny_llava, layout, kv_cache__memory="2MiB", scheduler__max_batch_tokens=32)
    patience = rng.exponential(0.15, 40)
    prompts = [ask(int(rng.integers(1, 40)), images=int(rng.integers(0, 4))) for _ in patience]

    def give_up(prompt: Any, seconds: float) -> type[TriptychError] | None:
        try:
            cluster.client.generate(prompt, timeout=seconds, max_tokens=100, ignore_eos=True)
        except TriptychError as error:
            return type(error)
        return None

    with ThreadPoolExecutor(10) as threads:
        outcomes = set(threads.map(give_up, prompts, np.maximum(patience, 0.002).tolist()))
    assert outcomes <= {DeadlineExceeded, None}
    cluster.require_idle()
    questions = oracle.questions(tiny_llava, lambda: ask(4, images=2), 2, 8)
    assert answers(cluster, [prompt for prompt, _ in questions], 8) == [tokens for _, tokens in questions]
