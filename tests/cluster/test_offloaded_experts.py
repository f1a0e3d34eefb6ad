"""Workers that read experts from disk: answers are those of one that has them all in memory."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.seeds import drawn_seed
from triptych.client import FailedPrecondition, InvalidArgument, Unavailable
from triptych.controller import cluster as cluster_module
from triptych.controller.desired import PROCESS_BYTES
from triptych.experts.store import open_store
from triptych.models.expert_sizes import expert_parameters
from triptych.models.resolve import resolve
from triptych.models.size import parameters
from triptych.models.spec import read_spec

TOKENS = 16
GREEDY: dict[str, Any] = {"max_tokens": TOKENS, "temperature": 0}


@pytest.fixture
def block_size() -> int:
    return 16


@pytest.fixture(scope="module")
def asked(oracle: Any, asking: Any, tiny_mixtral: Path) -> tuple[list[Any], list[tuple[int, ...]]]:
    """Prompts, and what an engine answers that has every expert in memory."""
    ask = asking(np.random.default_rng(drawn_seed()))
    questions = oracle.questions(tiny_mixtral, lambda: ask(5), 6, TOKENS)
    return [prompt for prompt, _ in questions], [tokens for _, tokens in questions]


@pytest.fixture
def offload(eventually: Any) -> Callable[[Any], Any]:
    """What a cluster's last worker has read, once it has said so."""

    def seen(cluster: Any) -> Any:
        eventually(lambda: (found := cluster.client.status().workers[-1].offload) and found.demanded)
        return cluster.client.status().workers[-1].offload

    return seen


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, in which there is one packed file."""
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_worker_below_its_experts_answers_alike_and_says_what_it_read(
    start: Any, answers: Any, tiny_mixtral: Path, asked: Any, offload: Callable[[Any], Any], eventually: Any
) -> None:
    prompts, expected = asked
    cluster = start(tiny_mixtral, "1D", experts__budget="75%", experts__warm=False)
    assert answers(cluster, prompts, TOKENS) == expected
    seen = offload(cluster)
    assert seen.demanded == seen.hits + seen.covered + seen.misses
    assert seen.misses > 0
    eventually(lambda: (one := offload(cluster)).read_bytes == one.reads * (one.pool_bytes // 9))  # none under way
    assert (seen.failed_reads, seen.prefetch) == (0, "next-gate")
    assert cluster.recorded("decode-0") > 0


def test_a_prefill_worker_with_all_experts_and_a_decode_worker_without(
    start: Any, answers: Any, tiny_mixtral: Path, asked: Any, offload: Callable[[Any], Any]
) -> None:
    prompts, expected = asked
    stages = {
        "prefill": {"replicas": 1, "experts": {}},
        "decode": {"replicas": 1, "experts": {"budget": "60%", "policy": "lru", "prefetch": "none"}},
    }
    cluster = start(tiny_mixtral, None, stages=stages)
    assert answers(cluster, prompts, TOKENS) == expected
    seen = offload(cluster)
    assert (seen.prefetch, seen.prefetched) == ("none", 0)
    assert cluster.client.status().workers[0].offload is None


def test_ranks_that_divide_experts_read_their_own(
    start: Any, answers: Any, tiny_mixtral: Path, asked: Any, offload: Callable[[Any], Any]
) -> None:
    prompts, expected = asked
    cluster = start(tiny_mixtral, "1D", experts__budget="60%", experts__warm=False, expert_parallel=2)
    assert answers(cluster, prompts, TOKENS) == expected
    assert offload(cluster).misses > 0


def test_experts_that_were_damaged_on_disk_are_mended_while_requests_wait(
    start: Any,
    answers: Any,
    tiny_mixtral: Path,
    asked: Any,
    offload: Callable[[Any], Any],
    cache: Path,
    eventually: Any,
) -> None:
    prompts, expected = asked
    cluster = start(tiny_mixtral, "1D", experts__budget="60%")
    [pack] = cache.rglob("*.experts")
    store = open_store(pack)
    with pack.open("r+b") as file:
        file.seek(store.offset(0, 0))
        file.write(bytes(store.nbytes))
        file.flush()
        os.fsync(file.fileno())
    assert answers(cluster, prompts, TOKENS) == expected
    eventually(lambda: offload(cluster).failed_reads > 0)
    [worker] = cluster.client.status().workers
    assert (worker.restarts, worker.health) == (0, "healthy")


def test_experts_that_are_nowhere_any_more_fail_requests_and_not_the_worker(
    start: Any, answers: Any, tiny_mixtral: Path, asked: Any, cache: Path, tmp_path: Path
) -> None:
    prompts, expected = asked
    cluster = start(tiny_mixtral, "1D", experts__budget="60%", router__max_retries=0)
    [pack] = cache.rglob("*.experts")
    os.truncate(pack, 4096)
    away = pack.parent.rename(tmp_path / "away")
    pack.parent.write_text("no folder: nothing can be packed here")
    with pytest.raises(Unavailable, match="experts could not be read, 3 times in a row"):
        cluster.client.generate(prompts[0], **GREEDY)
    pack.parent.unlink()
    away.rename(pack.parent)
    assert answers(cluster, prompts, TOKENS) == expected
    [worker] = cluster.client.status().workers
    assert (worker.restarts, worker.health) == (0, "healthy")


def test_with_auto_a_worker_gets_what_the_machine_has_to_spare(
    start: Any,
    answers: Any,
    tiny_mixtral: Path,
    asked: Any,
    offload: Callable[[Any], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts, expected = asked
    spec = read_spec(resolve(str(tiny_mixtral))).decoder
    others = 4 * (parameters(spec) - expert_parameters(spec))
    blob = 8 * 4096 + 4 * 4096  # 2 · 48 · 80 and 48 · 80 numbers of four bytes
    needed = PROCESS_BYTES + (4 << 20) + others + 8 * blob
    monkeypatch.setattr(cluster_module, "free_memory", lambda: round(needed / 0.9) + 2)
    cluster = start(tiny_mixtral, "1D", experts__budget="auto")
    assert answers(cluster, prompts, TOKENS) == expected
    assert offload(cluster).pool_bytes == 8 * blob


def test_a_budget_below_a_layer_is_refused_before_anything_starts(start: Any, tiny_mixtral: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"experts.budget must hold the experts of one layer"):
        start(tiny_mixtral, "1D", experts__budget="4KiB")


def test_a_model_without_experts_takes_auto_and_refuses_numbers(
    start: Any, answers: Any, oracle: Any, ask: Any, tiny_llama: Path
) -> None:
    [(prompt, expected)] = oracle.questions(tiny_llama, lambda: ask(5), 1, TOKENS)
    cluster = start(tiny_llama, "1D", experts__budget="auto")
    assert answers(cluster, [prompt], TOKENS) == [expected]
    assert cluster.client.status().workers[0].offload is None
    with pytest.raises((InvalidArgument, FailedPrecondition)) as caught:
        start(tiny_llama, "1D", experts__budget="1GiB")
    assert caught.value.field == "experts.budget"
