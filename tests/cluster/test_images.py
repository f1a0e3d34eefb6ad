"""Embeddings: spread over encode workers, shared, held until the end, and fetched again for decode workers."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from triptych.core.errors import InvalidArgument
from triptych.core.prompt import ChatMessage, ImagePart, TextPart
from triptych.engine.loop import Pending
from triptych.engine.plan import StepPlan
from triptych.engine.runner import ModelRunner

TOKENS = 10


def test_images_of_one_request_spread_and_keep_their_order(
    start: Any, tiny_llava: Path, oracle: Any, ask: Any, answers: Any
) -> None:
    def turned(prompt: list[ChatMessage]) -> list[ChatMessage]:
        return [ChatMessage("user", (prompt[0].parts[0], *reversed(prompt[0].parts[1:-1]), prompt[0].parts[-1]))]

    def differs() -> Any:
        """A prompt whose answer depends on the order of its five images."""
        while True:
            prompt = ask(1, images=5)
            both = [oracle.tokens(tiny_llava, p, TOKENS) for p in (prompt, turned(prompt))]
            if None not in both and both[0] != both[1]:
                return prompt

    [(prompt, expected)] = oracle.questions(tiny_llava, differs, 1, TOKENS)
    cluster = start(tiny_llava, "2E1P1D")
    assert answers(cluster, [prompt], TOKENS) == [expected]
    assert sorted(cluster.host(f"encode-{n}").panel.encoding.encoded_images for n in (0, 1)) == [2, 3]
    assert answers(cluster, [turned(prompt)], TOKENS) == [oracle.tokens(tiny_llava, turned(prompt), TOKENS)]


def test_a_picture_is_encoded_once(start: Any, tiny_llava: Path, oracle: Any, ask: Any, answers: Any) -> None:
    def twice() -> Any:
        [message] = ask(2, images=1)
        text, image, question = message.parts
        return [ChatMessage("user", (text, image, TextPart("and"), image, question))]

    [(prompt, expected)] = oracle.questions(tiny_llava, twice, 1, TOKENS)
    cluster = start(tiny_llava, "1E1P1D")
    for _ in range(3):
        assert answers(cluster, [prompt], TOKENS) == [expected]
    assert cluster.host("encode-0").panel.encoding.encoded_images == 1


def test_a_decode_worker_out_of_blocks_fetches_the_embeddings_again(
    start: Any, tiny_llava: Path, oracle: Any, ask: Any, answers: Any, eventually: Any
) -> None:
    tokens = 60
    questions = oracle.questions(tiny_llava, lambda: ask(4, images=2), 6, tokens)
    cluster = start(tiny_llava, "1E1P1D", kv_cache__memory="1MiB")
    brake = cluster.brake("decode-0")
    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(answers, cluster, [prompt for prompt, _ in questions], tokens)
        eventually(lambda: cluster.at_step("decode-0") == len(questions))
        brake.release()
        assert found.result() == [answer for _, answer in questions]
    decode = cluster.host("decode-0").panel.decoding.stage
    assert decode.core.scheduler.preemptions > 0
    assert decode.prefilled_tokens > 0
    assert cluster.host("encode-0").panel.encoding.store.counts.chunks > 2 * len(questions)


def test_an_answer_that_gave_way_to_a_reservation_goes_on_when_that_is_gone(
    start: Any,
    tiny_llava: Path,
    oracle: Any,
    ask: Any,
    answers: Any,
    eventually: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is alone, has no block to write its next token, and nobody else's step will ask for its embeddings."""
    tokens = 100
    [(prompt, expected)] = oracle.questions(tiny_llava, lambda: ask(4, images=1), 1, tokens)
    cluster = start(tiny_llava, "1E1P1D", kv_cache__memory="1MiB")
    decode, prefill = (cluster.host(name).panel.decoding.stage for name in ("decode-0", "prefill-0"))
    held_up, go_on, real = threading.Event(), threading.Event(), ModelRunner.launch

    def launch(self: ModelRunner, plan: StepPlan) -> Pending:
        if self is prefill.core.runner and plan.tokens > 200:
            held_up.set()
            go_on.wait(240)
        return real(self, plan)

    monkeypatch.setattr(ModelRunner, "launch", launch)
    brake = cluster.brake("decode-0")
    brake.allow(5)
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(answers, cluster, [prompt], tokens)
        eventually(lambda: brake.standing)
        with cluster.client.stream(ask(85), max_tokens=3):
            assert held_up.wait(60)  # its blocks are reserved
            brake.release()
            eventually(lambda: decode.core.scheduler.preemptions)
            later = cluster.client.stream(ask(1), max_tokens=3, ignore_eos=True)
            eventually(lambda: decode.jobs.waiting == 1)
            assert decode.core.scheduler.pool.free_count > 3, "the later one would fit, but must not overtake"
        try:
            assert answer.result(60) == [expected]
        finally:
            go_on.set()
        assert later.result().usage.completion_tokens == 3


def test_a_damaged_picture_fails_its_own_request_alone(
    start: Any, tiny_llava: Path, oracle: Any, ask: Any, answers: Any
) -> None:
    questions = oracle.questions(tiny_llava, lambda: ask(2, images=1), 3, TOKENS)
    image = next(part for part in questions[0][0][0].parts if isinstance(part, ImagePart))
    cut = ImagePart(image.data[: len(image.data) // 2])
    places = [0, 1, 2]
    damaged = [[ChatMessage("user", (*[TextPart("see")] * place, cut))] for place in places]
    cluster = start(tiny_llava, "1E1P1D")

    with ThreadPoolExecutor(4) as threads:
        bad = [threads.submit(cluster.client.generate, prompt, max_tokens=3) for prompt in damaged]
        assert answers(cluster, [prompt for prompt, _ in questions], TOKENS) == [answer for _, answer in questions]
        for place, failed in zip(places, bad, strict=True):
            error = failed.exception()
            assert isinstance(error, InvalidArgument)
            assert error.field == f"chat.messages[0].parts[{place}].image"
            assert "damaged PNG" in error.message
