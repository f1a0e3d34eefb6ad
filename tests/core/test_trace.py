"""Recordings of steps, and what trace viewers are given."""

import json

import pytest

from triptych.core.errors import FailedPrecondition
from triptych.core.trace import Lane, Recorder, TraceSpan, chrome_trace


def test_a_recording_is_over_with_its_last_step() -> None:
    recorder, over = Recorder(), []
    recording = recorder.begin(2, lambda: over.append(recording.steps))
    recording.step("prefill", 1.0, 2.0, 30)
    recording.add(Lane.KV_SEND, "2 blocks", 1.5, 2.5, 4096)
    assert not over
    recording.step("decode", 2.0, 2.5, 3)
    assert over == [2]
    recording.step("decode", 2.5, 3.0, 3)
    assert over == [2]
    assert [span.name for span in recording.spans] == ["prefill", "2 blocks", "decode"]


def test_one_trace_is_taken_at_a_time() -> None:
    recorder = Recorder()
    recorder.begin(1, lambda: None)
    with pytest.raises(FailedPrecondition, match="is being taken"):
        recorder.begin(1, lambda: None)
    recorder.end()
    recorder.end()
    recorder.begin(1, lambda: None)


def test_viewers_get_a_process_per_worker_and_a_thread_per_lane_and_rank() -> None:
    spans = {
        "prefill-0": [
            TraceSpan(Lane.KV_SEND, "3 blocks", 10.25, 10.5, 999),
            TraceSpan(Lane.COMPUTE, "prefill", 10.0, 10.5, 7),
        ],
        "decode-0": [
            TraceSpan(Lane.COMPUTE, "decode", 10.0, 10.001, 2),
            TraceSpan(Lane.COMPUTE, "decode", 10.0, 10.002, 2, 1),
        ],
    }
    events = json.loads(json.dumps(chrome_trace(spans)))["traceEvents"]
    names = {(e["name"], e["pid"], e["tid"]): e["args"]["name"] for e in events if e["ph"] == "M"}
    assert names == {
        ("process_name", 0, 0): "prefill-0",
        ("thread_name", 0, 0): "compute",
        ("thread_name", 0, 2): "KV send",
        ("process_name", 1, 0): "decode-0",
        ("thread_name", 1, 0): "compute of rank 0",
        ("thread_name", 1, 7): "compute of rank 1",
    }
    times = [(e["pid"], e["tid"], e["name"], e["ts"], e["dur"], e["args"]) for e in events if e["ph"] == "X"]
    assert times == [
        (0, 0, "prefill", 0.0, 500_000.0, {"rows": 7}),
        (0, 2, "3 blocks", 250_000.0, 250_000.0, {"bytes": 999}),
        (1, 0, "decode", 0.0, 1000.0, {"rows": 2}),
        (1, 7, "decode", 0.0, 2000.0, {"rows": 2}),
    ]


def test_nothing_recorded_is_a_trace_too() -> None:
    assert [e["ph"] for e in chrome_trace({"encode-0": []})["traceEvents"]] == ["M"]  # type: ignore[attr-defined]
