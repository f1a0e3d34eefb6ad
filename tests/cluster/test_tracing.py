"""Traces of workers that serve: the steps that were asked for, and transfers beside them."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from triptych.client import FailedPrecondition, InvalidArgument, NotFound, WorkerTrace
from triptych.core.trace import Lane

TOKENS = 24


@contextmanager
def traffic(cluster: Any, ask: Any, askers: int = 6) -> Iterator[None]:
    """Asks without a pause, with pictures."""
    over = threading.Event()

    def one() -> None:
        while not over.is_set():
            prompt = ask(30, images=1)  # nobody has seen this picture
            cluster.client.generate(prompt, max_tokens=TOKENS, temperature=0.0, ignore_eos=True)

    with ThreadPoolExecutor(askers) as threads:
        asking = [threads.submit(one) for _ in range(askers)]
        try:
            yield
        finally:
            over.set()
    for future in asking:
        future.result()


def overlapping(trace: WorkerTrace, lane: Lane) -> int:
    """Spans of a lane during which a step was computed."""
    steps = [span for span in trace.spans if span.lane is Lane.COMPUTE]
    moved = [span for span in trace.spans if span.lane is lane]
    return sum(any(step.start < one.end and one.start < step.end for step in steps) for one in moved)


def beside_steps(traces: dict[str, WorkerTrace]) -> set[str]:
    """What was seen to run beside steps, and whether what one side sent is what the other has received."""
    prefill, decode = traces["prefill-0"], traces["decode-0"]
    sent, received = (
        {span.size for span in trace.spans if span.lane is lane}
        for trace, lane in ((prefill, Lane.KV_SEND), (decode, Lane.KV_RECEIVE))
    )
    seen = {
        "send": overlapping(prefill, Lane.KV_SEND),
        "pull": overlapping(prefill, Lane.EMBEDDING_PULL),
        "text": overlapping(prefill, Lane.TEXT) + overlapping(decode, Lane.TEXT),
        "receive": overlapping(decode, Lane.KV_RECEIVE),
        "the same": len(sent & received),
    }
    return {name for name, count in seen.items() if count}


def test_transfers_run_beside_steps(start: Any, tiny_llava: Path, ask: Any) -> None:
    """Which of them meet a step within so many is up to the machine; each of them does in the end."""
    cluster = start(tiny_llava, "1E1P1D", scheduler__max_batch_tokens=16)
    seen: set[str] = set()
    with traffic(cluster, ask):
        for _ in range(20):
            traces = {one.worker_id: one for one in cluster.client.trace(steps=30, within=60)}
            assert list(traces) == ["encode-0", "prefill-0", "decode-0"]
            assert all(trace.steps == 30 for trace in traces.values())
            for trace in traces.values():
                assert sum(span.lane is Lane.COMPUTE for span in trace.spans) == 30
            seen |= beside_steps(traces)
            if len(seen) == 5:
                break
    assert seen == {"send", "pull", "text", "receive", "the same"}


def test_a_worker_without_work_ends_with_the_time(start: Any, tiny_llava: Path) -> None:
    cluster = start(tiny_llava, "1E1P1D")
    traces = cluster.client.trace("prefill-0", "encode-0", steps=5, within=0.05)
    assert [(one.worker_id, one.steps, one.spans) for one in traces] == [("prefill-0", 0, ()), ("encode-0", 0, ())]
    assert all(cluster.host(one.worker_id).panel.recorder.recording is None for one in traces)


def test_what_cannot_be_traced_is_refused(start: Any, tiny_llama: Path, eventually: Any) -> None:
    cluster = start(tiny_llama, "1D")
    with pytest.raises(NotFound, match="there is no worker 'decode-3'; there are decode-0"):
        cluster.client.trace("decode-3")
    with pytest.raises(InvalidArgument, match="steps must be 1 to 10000, got 0"):
        cluster.client.trace(steps=0)
    with pytest.raises(InvalidArgument, match="within"):
        cluster.client.trace(within=0)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(cluster.client.trace, steps=3, within=30)
        eventually(lambda: cluster.host("decode-0").panel.recorder.recording is not None)
        with pytest.raises(FailedPrecondition, match="a trace of this worker is being taken"):
            cluster.client.trace()
        cluster.client.generate("abc", max_tokens=8, ignore_eos=True)
        assert [one.steps for one in first.result()] == [3]


def test_all_ranks_of_a_worker_are_in_its_trace(start: Any, tiny_llama: Path, ask: Any, eventually: Any) -> None:
    cluster = start(tiny_llama, "1D", tensor_parallel=2)
    with ThreadPoolExecutor(1) as threads:
        tracing = threads.submit(cluster.client.trace, steps=6, within=60)
        eventually(lambda: cluster.host("decode-0").panel.recorder.recording is not None)
        cluster.client.generate(ask(20), max_tokens=60, ignore_eos=True)
        [trace] = tracing.result()
    for rank in (0, 1):
        spans = [span for span in trace.spans if span.rank == rank]
        steps = [span for span in spans if span.lane is Lane.COMPUTE]
        sums = [span for span in spans if span.lane is Lane.COLLECTIVES]
        assert len(steps) >= (6 if rank == 0 else 4)
        inside = [one for one in sums if any(step.start <= one.start and one.end <= step.end for step in steps)]
        assert len(inside) >= 4 * 5  # the embedding, two blocks of two layers, and the head
        assert {span.name for span in sums} >= {"all_reduce", "all_gather"}
    assert max(span.end for span in trace.spans) - min(span.start for span in trace.spans) < 60
    assert cluster.host("decode-0").panel.recorder.recording is None
