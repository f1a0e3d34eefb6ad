"""A worker of two ranks in Ray: one is killed or stopped while answers are written, which stay what they are."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.support.seeds import drawn_seed
from triptych.core.fleet import Stage

TOKENS = 200

pytestmark = pytest.mark.timeout(600)  # Ray starts within the first test, and a stopped rank is noticed after seconds

Questions = list[tuple[Any, tuple[int, ...]]]


@pytest.fixture(scope="module")
def questions(oracle: Any, asking: Any, tiny_llama: Path) -> Questions:
    ask = asking(np.random.default_rng(drawn_seed()))
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


def interrupted(served: Any, questions: Questions, eventually: Any, blow: Any) -> list[tuple[int, ...]]:
    """The answers, which are being written when `blow` comes; a far longer one beside them certainly is."""
    client, options = served.client, {"temperature": 0.0, "ignore_eos": True}
    before = client.status().router.replays
    with client.stream("abcd", max_tokens=3000, **options) as endless:
        next(endless)
        streams = [client.stream(prompt, max_tokens=TOKENS, **options) for prompt, _ in questions]
        for stream in streams:
            next(stream)
        blow()
        with ThreadPoolExecutor(len(streams)) as threads:
            results = list(threads.map(lambda stream: stream.result(), streams))
        eventually(lambda: client.status().router.replays > before, 60.0)
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

    answers = interrupted(served, questions, eventually, strike)
    eventually(rebuilt, 240.0)
    print(f"rebuilt within {time.monotonic() - struck[0]:.1f} s")
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
        found = []
        for process in served.family():
            with contextlib.suppress(psutil.NoSuchProcess):  # some are just ending
                if process.pid not in before.rank_pids and process.name().startswith("ray::RankActor"):
                    found.append(process)
        return found

    def strike() -> None:
        os.kill(before.rank_pids[0], signal.SIGKILL)
        seen: list[psutil.Process] = []
        eventually(lambda: seen or seen.extend(starting()) or seen, 240.0)
        assert "rank 0 died" in served.worker(Stage.DECODE).last_end
        seen[0].kill()

    assert interrupted(served, questions, eventually, strike) == [tokens for _, tokens in questions]
    eventually(lambda: served.client.status().ready, 240.0)
    after = served.worker(Stage.DECODE)
    assert (after.restarts, len(after.rank_pids)) == (before.restarts + 2, 2)
    assert "rank 1" in after.last_end


def test_the_end_of_the_command_is_the_end_of_every_rank(served: Any) -> None:
    family = served.family()
    served.process.terminate()
    served.process.communicate(timeout=240)
    assert served.process.returncode == 0
    assert not psutil.wait_procs(family, timeout=60)[1]
