"""Workers that die and transfers that are damaged: the same answers, later; at worst a typed error."""

import importlib
import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from triptych.core.errors import DataLoss, Internal
from triptych.core.fleet import Stage
from triptych.core.plan import Placement
from triptych.engine.loop import Pending
from triptych.engine.plan import StepPlan
from triptych.engine.runner import ModelRunner
from triptych.stages.encode_batch import BatchEncoder
from triptych.transfer.heads import Heads
from triptych.transfer.pages import Pages
from triptych.transfer.runs import Run
from triptych.transfer.source import SharedSource, StreamSource
from triptych.transfer.stats import TransferCounts

pytestmark = pytest.mark.parametrize("block_size", [4, 16])

TOKENS = 10
GREEDY = {"temperature": 0.0, "ignore_eos": True}
LONG = {"max_tokens": 3500, "temperature": 0.0, "ignore_eos": True}


def restarted(cluster: Any, worker_id: str) -> bool:
    """Whether the worker has come back once, with everything connected."""
    status = cluster.client.status()
    return bool(status.ready and {w.worker_id: w.restarts for w in status.workers}[worker_id] == 1)


@pytest.mark.parametrize("worker_id", ["prefill-0", "decode-0"])
def test_a_worker_killed_at_work_costs_its_requests_nothing(
    worker_id: str, start: Any, tiny_llava: Path, oracle: Any, ask: Any, eventually: Any
) -> None:
    words = 60 if worker_id == "prefill-0" else 4  # prefill: 16 of 300 tokens a step
    questions = oracle.questions(tiny_llava, lambda: ask(words, images=1), 2, 3 * TOKENS)
    cluster = start(tiny_llava, "1E1P1D", scheduler__max_batch_tokens=16, kv_cache__prefix_caching=False)
    killed, brake = cluster.host(worker_id), cluster.brake(worker_id)
    with ThreadPoolExecutor(3) as threads:
        options = {"temperature": 0.0, "ignore_eos": True, "max_tokens": 3 * TOKENS}
        running = [threads.submit(cluster.client.generate, prompt, **options) for prompt, _ in questions]
        eventually(lambda: cluster.at_step(worker_id) == 2)
        brake.allow(6)
        eventually(lambda: brake.standing)
        incarnation = killed.panel.welcome().incarnation
        cluster.runtime.actors[worker_id].crash()
        answers = [future.result() for future in running]
    assert [answer.token_ids for answer in answers] == [tokens for _, tokens in questions]
    assert [answer.usage.replays for answer in answers] == [1, 1]
    survivor = {"prefill-0": "decode-0", "decode-0": "prefill-0"}[worker_id]  # each can do the other's work
    assert [span.worker for span in answers[0].timeline if span.name == "replay"] == [survivor]
    eventually(lambda: restarted(cluster, worker_id))
    assert cluster.host(worker_id).panel.welcome().incarnation != incarnation


def test_an_encode_worker_killed_at_work_costs_nothing_and_others_do_not_notice(
    start: Any,
    tiny_llava: Path,
    oracle: Any,
    ask: Any,
    eventually: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [(prompt, expected)] = oracle.questions(tiny_llava, lambda: ask(4, images=1), 1, TOKENS)
    cluster = start(tiny_llava, "1E1P1D", kv_cache__memory="64MiB")
    seeing, blind = threading.Event(), threading.Event()

    def encode(*arguments: Any) -> Any:
        seeing.set()
        blind.wait(120)
        return real(*arguments)

    real = BatchEncoder.encode
    monkeypatch.setattr(BatchEncoder, "encode", encode)
    with ThreadPoolExecutor(2) as threads, cluster.client.stream(ask(4), **LONG) as other:
        next(other)
        running = threads.submit(answers_of, cluster, prompt)
        assert seeing.wait(60)
        killing = threads.submit(cluster.runtime.actors["encode-0"].crash)
        eventually(lambda: cluster.client.status().router.replays == 1)
        blind.set()
        killing.result()
        assert running.result() == expected
        assert next(other).token_ids
    eventually(lambda: restarted(cluster, "encode-0"))


def answers_of(cluster: Any, prompt: Any) -> tuple[int, ...]:
    tokens: tuple[int, ...] = cluster.client.generate(prompt, max_tokens=TOKENS, **GREEDY).token_ids
    return tokens


def damaging(source: type, times: int, done: list[int]) -> Callable[..., TransferCounts]:
    """The source's own write, after which one bit of the target is flipped, `times` times over."""
    real = source.write_into

    def write_into(
        self: Any, target: Pages, blocks: Sequence[Run], runs: Sequence[Run], heads: Heads
    ) -> TransferCounts:
        counts: TransferCounts = real(self, target, blocks, runs, heads)
        if len(done) < times:
            done.append(1)
            next(iter(target.pieces(runs, heads)))[3] ^= 0x40
        return counts

    return write_into


@pytest.mark.parametrize("times", [2, 4, 10**9])
@pytest.mark.parametrize(("backend", "source"), [("shared_memory", SharedSource), ("tcp", StreamSource)])
def test_damaged_kv_is_sent_again_then_computed_again_and_refused_at_last(
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
    cluster = start(tiny_llama, "1P1D", transfer__backend=backend, router__max_retries=1)
    done: list[int] = []
    with monkeypatch.context() as damage:
        damage.setattr(source, "write_into", damaging(source, times, done))
        apart = {"placement": Placement.DISAGGREGATED}  # else the next attempt would do without a transfer
        if times < 6:  # three times in one attempt, and as often in the next
            assert answers(cluster, [questions[0][0]], TOKENS, **apart) == [questions[0][1]]
        else:
            with pytest.raises(DataLoss, match="wrong checksum"):
                answers(cluster, [questions[0][0]], TOKENS, **apart)
        cluster.require_idle()
    assert len(done) == min(times, 6)
    assert cluster.client.status().router.replays == (times > 2)
    assert cluster.host("decode-0").panel.decoding.movers.receiver.counts.mismatches == len(done)
    assert answers(cluster, [prompt for prompt, _ in questions], TOKENS) == [tokens for _, tokens in questions]


def test_a_way_that_always_damages_kv_is_avoided(
    start: Any, tiny_llama: Path, oracle: Any, ask: Any, answers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = oracle.questions(tiny_llama, lambda: ask(8), 1, TOKENS)
    cluster = start(tiny_llama, "1P1D", transfer__backend="shared_memory")
    done: list[int] = []
    monkeypatch.setattr(SharedSource, "write_into", damaging(SharedSource, 10**9, done))
    assert answers(cluster, [questions[0][0]], TOKENS) == [questions[0][1]]
    assert (len(done), cluster.client.status().router.replays) == (3, 1)
    cluster.require_idle()


@pytest.mark.parametrize("times", [2, 4, 10**9])
def test_damaged_embeddings_are_fetched_again_then_encoded_again_and_refused_at_last(
    times: int,
    start: Any,
    tiny_llava: Path,
    oracle: Any,
    ask: Any,
    answers: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [(prompt, expected)] = oracle.questions(tiny_llava, lambda: ask(4, images=1), 1, TOKENS)
    cluster = start(tiny_llava, "1E1P1D", router__max_retries=1)
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
        if times < 6:
            assert answers(cluster, [prompt], TOKENS) == [expected]
        else:
            with pytest.raises(DataLoss, match="wrong checksum"):
                answers(cluster, [prompt], TOKENS)
        cluster.require_idle()
    assert len(fetches) == min(times + 1, 6)
    assert answers(cluster, [prompt], TOKENS) == [expected]


def test_an_embedding_damaged_where_it_is_kept_is_computed_again(
    start: Any, tiny_llava: Path, oracle: Any, ask: Any, answers: Any
) -> None:
    [(prompt, expected)] = oracle.questions(tiny_llava, lambda: ask(4, images=1), 1, TOKENS)
    cluster = start(tiny_llava, "1E1P1D", kv_cache__prefix_caching=False)
    assert answers(cluster, [prompt], TOKENS) == [expected]
    encoding = cluster.host("encode-0").panel.encoding
    [kept] = encoding.store._stored.values()
    kept.array.flags.writeable = True
    kept.array[7] ^= 0x40
    for encoded in (2, 2):  # damaged once, computed again once
        assert answers(cluster, [prompt], TOKENS) == [expected]
        assert encoding.encoded_images == encoded
        assert cluster.client.status().router.replays == 1
    cluster.require_idle()


@pytest.mark.parametrize("times", [1, 10**9])
@pytest.mark.parametrize("layout", ["1D", "1P1D"])
def test_a_step_that_fails_is_tried_again_and_costs_at_most_its_requests(
    layout: str,
    times: int,
    start: Any,
    tiny_llama: Path,
    oracle: Any,
    ask: Any,
    answers: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [(prompt, expected)] = oracle.questions(tiny_llama, lambda: ask(4), 1, TOKENS)
    cluster = start(tiny_llama, layout, router__max_retries=1)
    decoder = cluster.host("decode-0").panel.decoding.stage.core.runner
    real, failures = ModelRunner.launch, itertools.count(1)

    def launch(self: ModelRunner, plan: StepPlan) -> Pending:
        if self is decoder and next(failures) <= times:
            raise RuntimeError("out of luck")
        return real(self, plan)

    with monkeypatch.context() as damage:
        damage.setattr(ModelRunner, "launch", launch)
        if times == 1 or layout == "1P1D":  # where the prefill worker can decode as well
            assert answers(cluster, [prompt], TOKENS) == [expected]
        else:
            with pytest.raises(Internal, match="failed to compute: out of luck") as caught:
                answers(cluster, [prompt], TOKENS)
            assert "Traceback" not in caught.value.message
        cluster.require_idle()
    assert answers(cluster, [prompt], TOKENS) == [expected]
    assert [w.restarts for w in cluster.client.status().workers if w.role is Stage.DECODE] == [0]


@pytest.mark.parametrize("worker_id", ["encode-0", "prefill-0", "decode-0"])
def test_a_worker_that_cannot_go_on_ends_and_its_requests_wait_for_the_next(
    worker_id: str, start: Any, tiny_llava: Path, oracle: Any, ask: Any, answers: Any, eventually: Any
) -> None:
    """A defect in the loop itself: half a worker does not linger."""
    [(prompt, expected)] = oracle.questions(tiny_llava, lambda: ask(4, images=1), 1, TOKENS)
    cluster = start(tiny_llava, "1E1P1D")
    panel = cluster.host(worker_id).panel

    def fail(*_: object) -> None:
        raise AssertionError("two blocks have one holder")

    if panel.encoding:
        panel.encoding._compute = fail
    else:
        panel.decoding.stage.core.scheduler.schedule = fail
    assert answers(cluster, [prompt], TOKENS) == [expected]
    eventually(lambda: restarted(cluster, worker_id))
