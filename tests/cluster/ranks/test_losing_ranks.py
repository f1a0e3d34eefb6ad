"""A rank that is lost takes its worker down, which comes back; nobody's answer changes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from triptych.core.errors import Unavailable
from triptych.stages import rank_host

GREEDY = {"temperature": 0.0, "ignore_eos": True}
TOKENS = 64


def interrupted(cluster: Any, prompts: list[Any], blow: Any) -> tuple[list[tuple[int, ...]], int]:
    """The answers to prompts, and how many were begun anew; `blow` comes when all of them are being written."""
    streams = [cluster.client.stream(prompt, max_tokens=TOKENS, **GREEDY) for prompt in prompts]
    for stream in streams:
        next(stream)
    blow()
    with ThreadPoolExecutor(len(streams)) as threads:
        results = list(threads.map(lambda stream: stream.result(), streams))
    return [result.token_ids for result in results], sum(result.usage.replays for result in results)


@pytest.mark.parametrize(
    ("worker_id", "rank"), [("decode-0", 1), ("decode-0", 0), ("prefill-0", 1)], ids=["follower", "rank 0", "prefill"]
)
def test_answers_go_on_after_a_rank_is_lost(
    start: Any, tiny_llama: Path, oracle: Any, ask: Any, eventually: Any, worker_id: str, rank: int
) -> None:
    layout = "1D" if worker_id == "decode-0" else "1P1D"
    questions = oracle.questions(tiny_llama, lambda: ask(5), 4, TOKENS)
    cluster = start(tiny_llama, layout, tensor_parallel=2)
    actor, brake = cluster.runtime.actors[worker_id], cluster.brake("decode-0")
    brake.allow(20)

    def blow() -> None:
        actor.lose(rank) if rank else actor.crash()
        brake.release()

    answers, replays = interrupted(cluster, [prompt for prompt, _ in questions], blow)
    assert answers == [tokens for _, tokens in questions]
    assert replays or worker_id == "prefill-0"  # whose part may be over

    def healed() -> bool:
        status = cluster.client.status()
        [worker] = [one for one in status.workers if one.worker_id == worker_id]
        return status.ready and worker.restarts == 1 and len(worker.rank_pids) == 2

    eventually(healed, 60.0)
    [worker] = [one for one in cluster.client.status().workers if one.worker_id == worker_id]
    assert ("rank 1" in worker.last_end) == bool(rank)
    assert cluster.runtime.actors[worker_id] is not actor


def test_a_rank_that_cannot_open_its_transfers_says_so(
    start: Any, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise Unavailable("no port is left")

    monkeypatch.setattr(rank_host, "TransferServer", refuse)
    with pytest.raises(Unavailable, match="no port is left"):
        start(tiny_llama, "1D", tensor_parallel=2)
