"""Workers that die and transfers that are damaged: a typed error, a restart, and never a wrong token."""

import importlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from triptych.core.errors import DataLoss, Internal, Unavailable
from triptych.core.fleet import Stage
from triptych.engine.loop import Pending
from triptych.engine.plan import StepPlan
from triptych.engine.runner import ModelRunner
from triptych.stages.encode_batch import BatchEncoder
from triptych.transfer.pages import Pages
from triptych.transfer.runs import Run
from triptych.transfer.source import SharedSource, StreamSource
from triptych.transfer.stats import TransferCounts

pytestmark = pytest.mark.parametrize("block_size", [4, 16])

TOKENS = 10
LONG = {"max_tokens": 3500, "temperature": 0.0, "ignore_eos": True}


def restarted(cluster: Any, worker_id: str) -> bool:
    """Whether the worker has come back once, with everything connected."""
    status = cluster.client.status()
    return bool(status.ready and {w.worker_id: w.restarts for w in status.workers}[worker_id] == 1)


@pytest.mark.parametrize("worker_id", ["prefill-0", "decode-0"])
def test_a_worker_killed_at_work_ends_its_requests_and_comes_back(
    worker_id: str, start: Any, tiny_llava: Path, oracle: Any, ask: Any, answers: Any, eventually: Any
) -> None:
    cluster = start(tiny_llava, "1E1P1D", kv_cache__memory="64MiB", scheduler__max_batch_tokens=16)
    killed = cluster.host(worker_id)
    core, held = killed.panel.decoding.stage.core, threading.Event()
    real = core.step

    def step(*arguments: Any) -> Any:
        if core.steps > 5:  # still at work when it is killed, however fast the machine is
            held.wait(20)
        return real(*arguments)

    core.step = step
    with ThreadPoolExecutor(3) as threads:
        # Prefill: 16 of 3500 tokens a step. Decode: 3500 steps.
        prompt = ask(700, images=1) if worker_id == "prefill-0" else ask(4, images=1)
        options = {"max_tokens": 5} if worker_id == "prefill-0" else LONG
        running = [threads.submit(cluster.client.generate, prompt, **options) for _ in range(2)]
        eventually(lambda: core.steps > 5)
        incarnation = killed.panel.welcome().incarnation
        killing = threads.submit(cluster.runtime.actors[worker_id].crash)
        for future in running:
            error = future.exception()
            assert isinstance(error, Unavailable)
            assert f"worker {worker_id} was lost" in error.message
            assert error.request_id
            assert error.retry_after
        held.set()
        killing.result()
    eventually(lambda: restarted(cluster, worker_id))
    assert cluster.host(worker_id).panel.welcome().incarnation != incarnation
    questions = oracle.questions(tiny_llava, lambda: ask(4, images=2), 2, TOKENS)
    assert answers(cluster, [prompt for prompt, _ in questions], TOKENS) == [tokens for _, tokens in questions]


def test_an_encode_worker_killed_at_work_ends_its_requests_and_no_others(
    start: Any, tiny_llava: Path, ask: Any, eventually: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = start(tiny_llava, "1E1P1D", kv_cache__memory="64MiB")
    seeing, blind = threading.Event(), threading.Event()

    def encode(*arguments: Any) -> Any:
        seeing.set()
        blind.wait(20)
        return real(*arguments)

    real = BatchEncoder.encode
    monkeypatch.setattr(BatchEncoder, "encode", encode)
    with ThreadPoolExecutor(2) as threads, cluster.client.stream(ask(4), **LONG) as other:
        next(other)
        running = threads.submit(cluster.client.generate, ask(4, images=1), max_tokens=3)
        assert seeing.wait(10)
        killing = threads.submit(cluster.runtime.actors["encode-0"].crash)
        error = running.exception()
        assert isinstance(error, Unavailable)
        assert "worker encode-0 was lost" in error.message
        blind.set()
        killing.result()
        assert next(other).token_ids
    eventually(lambda: restarted(cluster, "encode-0"))
    assert cluster.client.generate(ask(4, images=1), max_tokens=3, ignore_eos=True).usage.completion_tokens == 3


def damaging(source: type, times: int, done: list[int]) -> Callable[..., TransferCounts]:
    """The source's own write, after which one bit of the target is flipped, `times` times over."""
    real = source.write_into

    def write_into(self: Any, target: Pages, blocks: Sequence[Run], runs: Sequence[Run]) -> TransferCounts:
        counts: TransferCounts = real(self, target, blocks, runs)
        if len(done) < times:
            done.append(1)
            next(iter(target.pieces(runs)))[3] ^= 0x40
        return counts

    return write_into


@pytest.mark.parametrize("times", [2, 10**9])
@pytest.mark.parametrize(("backend", "source"), [("shared_memory", SharedSource), ("tcp", StreamSource)])
def test_damaged_kv_is_sent_again_or_refused(
    backend: str,
    source: type,
    times: int,
    start: Any,
    tiny_llama: Path,
    oracle: Any,
    ask: Any,
    answers: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    questions = oracle.questions(tiny_llama, lambda: ask(8), 2, TOKENS)
    cluster = start(tiny_llama, "1P1D", transfer__backend=backend)
    done: list[int] = []
    with monkeypatch.context() as damage:
        damage.setattr(source, "write_into", damaging(source, times, done))
        if times == 2:
            assert answers(cluster, [questions[0][0]], TOKENS) == [questions[0][1]]
        else:
            with pytest.raises(DataLoss, match="wrong checksum"):
                answers(cluster, [questions[0][0]], TOKENS)
        cluster.require_idle()
    assert len(done) == (2 if times == 2 else 3)
    assert cluster.host("decode-0").panel.decoding.movers.receiver.counts.mismatches == len(done)
    assert answers(cluster, [prompt for prompt, _ in questions], TOKENS) == [tokens for _, tokens in questions]


@pytest.mark.parametrize("times", [2, 10**9])
def test_damaged_embeddings_are_fetched_again_or_refused(
    times: int,
    start: Any,
    tiny_llava: Path,
    oracle: Any,
    ask: Any,
    answers: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [(prompt, expected)] = oracle.questions(tiny_llava, lambda: ask(4, images=1), 1, TOKENS)
    cluster = start(tiny_llava, "1E1P1D")
    fetches: list[int] = []
    module = importlib.import_module("triptych.transfer.pull")
    real = module._fetch

    def fetch(*arguments: Any) -> Any:
        copy = real(*arguments)
        fetches.append(1)
        copy[7] ^= len(fetches) <= times
        return copy

    with monkeypatch.context() as damage:
        damage.setattr(module, "_fetch", fetch)
        if times == 2:
            assert answers(cluster, [prompt], TOKENS) == [expected]
        else:
            with pytest.raises(DataLoss, match="wrong checksum"):
                answers(cluster, [prompt], TOKENS)
        cluster.require_idle()
    assert len(fetches) == 3
    assert answers(cluster, [prompt], TOKENS) == [expected]


@pytest.mark.parametrize("layout", ["1D", "1P1D"])
def test_a_step_that_fails_costs_its_requests_and_not_the_worker(
    layout: str, start: Any, tiny_llama: Path, oracle: Any, ask: Any, answers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    [(prompt, expected)] = oracle.questions(tiny_llama, lambda: ask(4), 1, TOKENS)
    cluster = start(tiny_llama, layout)
    decoder = cluster.host("decode-0").panel.decoding.stage.core.runner
    real = ModelRunner.launch

    def launch(self: ModelRunner, plan: StepPlan) -> Pending:
        if self is decoder:
            raise RuntimeError("out of luck")
        return real(self, plan)

    with monkeypatch.context() as damage:
        damage.setattr(ModelRunner, "launch", launch)
        with pytest.raises(Internal, match="failed to compute: out of luck") as caught:
            answers(cluster, [prompt], TOKENS)
        assert "Traceback" not in caught.value.message
        cluster.require_idle()
    assert answers(cluster, [prompt], TOKENS) == [expected]
    assert [w.restarts for w in cluster.client.status().workers if w.role is Stage.DECODE] == [0]


@pytest.mark.parametrize("worker_id", ["encode-0", "prefill-0", "decode-0"])
def test_a_worker_that_cannot_go_on_ends_and_is_started_again(
    worker_id: str, start: Any, tiny_llava: Path, oracle: Any, ask: Any, answers: Any, eventually: Any
) -> None:
    """A defect in the loop itself: whoever waited hears of it, and half a worker does not linger."""
    [(prompt, expected)] = oracle.questions(tiny_llava, lambda: ask(4, images=1), 1, TOKENS)
    cluster = start(tiny_llava, "1E1P1D")
    panel = cluster.host(worker_id).panel

    def fail(*_: object) -> None:
        raise AssertionError("two blocks have one holder")

    if panel.encoding:
        panel.encoding._finish = fail
    else:
        panel.decoding.stage.core.scheduler.schedule = fail
    with pytest.raises(Unavailable, match=f"worker {worker_id} was lost"):
        answers(cluster, [prompt], TOKENS)
    eventually(lambda: restarted(cluster, worker_id))
    assert answers(cluster, [prompt], TOKENS) == [expected]
