"""Workers are drained, added and taken over while answers are written; nothing of an answer is lost or changed."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from triptych.client import Client, FailedPrecondition, Stage

GREEDY = {"temperature": 0.0, "ignore_eos": True}
TOKENS = 48

Ask = Callable[..., Any]


def workers(cluster: Any) -> dict[str, str]:
    return {worker.worker_id: worker.health for worker in cluster.client.status().workers}


def ask_all(threads: ThreadPoolExecutor, client: Client, questions: list[Any]) -> list[Any]:
    return [threads.submit(client.generate, prompt, **GREEDY, max_tokens=TOKENS) for prompt, _ in questions]


@pytest.mark.parametrize("timeout", [0.0, 240.0])
def test_a_decode_worker_is_drained_while_it_writes_answers(
    tiny_llama: Path, start: Any, oracle: Any, ask: Ask, eventually: Any, timeout: float
) -> None:
    cluster = start(tiny_llama, "1P2D")
    questions = oracle.questions(tiny_llama, ask, 8, TOKENS)
    brake = cluster.brake("decode-1")
    with ThreadPoolExecutor(8) as threads:
        answers = ask_all(threads, cluster.client, questions)
        eventually(lambda: cluster.host("decode-1").panel.report().running_requests)
        cluster.client.drain("decode-1", timeout=timeout)
        brake.release()
        assert [answer.result().token_ids for answer in answers] == [tokens for _, tokens in questions]
    eventually(lambda: "decode-1" not in workers(cluster))
    assert workers(cluster) == {"prefill-0": "healthy", "decode-0": "healthy"}
    if timeout:
        assert cluster.client.status().router.replays == 0
    with pytest.raises(FailedPrecondition):
        cluster.client.drain("decode-0")


def test_every_stage_is_scaled_up_and_down_under_load(
    tiny_llava: Path, start: Any, oracle: Any, ask: Ask, eventually: Any
) -> None:
    cluster = start(tiny_llava, "1E1P1D", router__drain_seconds=0)
    questions = oracle.questions(tiny_llava, lambda: ask(images=1), 6, TOKENS)
    with ThreadPoolExecutor(6) as threads:
        for count in (2, 1):
            answers = ask_all(threads, cluster.client, questions)
            for stage in Stage:
                scaling = cluster.client.scale(stage, count)
                assert len(scaling.started) + len(scaling.drained) == 1
            eventually(lambda n=count: list(workers(cluster).values()) == ["healthy"] * 3 * n, 60.0)
            assert [answer.result().token_ids for answer in answers] == [tokens for _, tokens in questions]


def test_a_prefill_stage_is_scaled_away_and_comes_back(
    tiny_llama: Path, start: Any, oracle: Any, ask: Ask, eventually: Any
) -> None:
    cluster = start(tiny_llama, "1P1D")
    [(prompt, tokens)] = oracle.questions(tiny_llama, ask, 1, TOKENS)
    for replicas in (0, 1):
        cluster.client.scale("prefill", replicas)
        eventually(lambda n=replicas: list(workers(cluster).values()) == ["healthy"] * (1 + n))
        assert cluster.client.status().layout == ("1P1D" if replicas else "1D")
        assert cluster.client.generate(prompt, **GREEDY, max_tokens=TOKENS).token_ids == tokens


def test_workers_that_do_not_fit_are_refused(tiny_llama: Path, start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = start(tiny_llama, "1D")
    with pytest.raises(FailedPrecondition, match=r"1000 workers need about .* are available"):
        cluster.client.scale("decode", 1001)
    assert workers(cluster) == {"decode-0": "healthy"}
