"""A worker of two ranks in Ray: one is killed or stopped while answers are written, which stay what they are."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from triptych.core.fleet import Stage

TOKENS = 200
REBUILT = 30.0
"""Seconds from the loss of a rank to a worker that serves again, on a machine that has nothing else to do."""

pytestmark = pytest.mark.timeout(600)  # Ray starts within the first test, and a stopped rank is noticed after seconds

Questions = list[tuple[Any, tuple[int, ...]]]


@pytest.fixture(scope="module")
def questions(oracle: Any, ask: Any, tiny_llama: Path) -> Questions:
    found: Questions = oracle.questions(tiny_llama, lambda: ask(5), 4, TOKENS)
    return found


@pytest.fixture(scope="module")
def served(serving: Any, tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    settings = f"""
model: {tiny_llama}
layout: 1D
tensor_parallel: 2
dtype: float32
kv_cache: {{memory: 8MiB}}
"""
    with serving(settings, tmp_path_factory.mktemp("ranks")) as served:
        yield served


def interrupted(served: Any, questions: Questions, blow: Any) -> list[tuple[int, ...]]:
    """The answers, all of which are being written when `blow` comes."""
    streams = [
        served.client.stream(prompt, max_tokens=TOKENS, temperature=0.0, ignore_eos=True) for prompt, _ in questions
    ]
    for stream in streams:
        next(stream)
    blow()
    with ThreadPoolExecutor(len(streams)) as threads:
        results = list(threads.map(lambda stream: stream.result(), streams))
    assert sum(result.usage.replays for result in results) > 0
    return [result.token_ids for result in results]


def test_the_ranks_of_a_worker_are_processes_that_answer_as_one(served: Any, questions: Questions) -> None:
    worker = served.worker(Stage.DECODE)
    assert len(set(worker.rank_pids)) == 2
    assert worker.pid == worker.rank_pids[0]
    assert set(worker.rank_pids) <= {process.pid for process in served.family()}
    with ThreadPoolExecutor(len(questions)) as threads:
        found = list(
            threads.map(
                lambda question: (
                    served.client.generate(question[0], max_tokens=TOKENS, temperature=0.0, ignore_eos=True).token_ids
                ),
                questions,
            )
        )
    assert found == [tokens for _, tokens in questions]


@pytest.mark.parametrize(("rank", "blow"), [(1, signal.SIGKILL), (1, signal.SIGSTOP), (0, signal.SIGSTOP)])
def test_a_lost_rank_costs_time_and_no_token(
    served: Any, questions: Questions, eventually: Any, rank: int, blow: signal.Signals
) -> None:
    before = served.worker(Stage.DECODE)
    struck: list[float] = []

    def strike() -> None:
        struck.append(time.monotonic())
        os.kill(before.rank_pids[rank], blow)

    def rebuilt() -> bool:
        return bool(served.client.status().ready and served.worker(Stage.DECODE).restarts == before.restarts + 1)

    answers = interrupted(served, questions, strike)
    crowd = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # how many want each processor
    eventually(rebuilt, REBUILT * crowd)
    seconds = time.monotonic() - struck[0]
    print(f"rebuilt within {seconds:.1f} s, {crowd:.1f} to a processor")
    assert seconds < REBUILT * crowd
    assert answers == [tokens for _, tokens in questions]
    after = served.worker(Stage.DECODE)
    assert f"rank {rank}" in after.last_end
    assert len(after.rank_pids) == 2
    assert not set(after.rank_pids) & set(before.rank_pids)
    eventually(lambda: not any(map(psutil.pid_exists, before.rank_pids)), 60.0)


def test_rank_0_is_killed_and_another_one_while_they_start_again(
    served: Any, questions: Questions, eventually: Any
) -> None:
    before = served.worker(Stage.DECODE)

    def starting() -> list[psutil.Process]:
        others = (process for process in served.family() if process.pid not in before.rank_pids)
        return [process for process in others if process.name().startswith("ray::RankActor")]

    def strike() -> None:
        os.kill(before.rank_pids[0], signal.SIGKILL)
        eventually(starting, 120.0)
        assert "rank 0 died" in served.worker(Stage.DECODE).last_end
        starting()[0].kill()

    assert interrupted(served, questions, strike) == [tokens for _, tokens in questions]
    eventually(lambda: served.client.status().ready, 60.0)
    after = served.worker(Stage.DECODE)
    assert (after.restarts, len(after.rank_pids)) == (before.restarts + 2, 2)
    assert "rank 1" in after.last_end


def test_the_end_of_the_command_is_the_end_of_every_rank(served: Any) -> None:
    family = served.family()
    served.process.terminate()
    served.process.communicate(timeout=120)
    assert served.process.returncode == 0
    assert not psutil.wait_procs(family, timeout=60)[1]
