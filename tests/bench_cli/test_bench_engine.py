import json
from collections.abc import Callable
from pathlib import Path

import pytest

from triptych.cli.bench.engine.machine import Precision
from triptych.cli.bench.engine.measure import EngineSettings, measure
from triptych.cli.bench.engine.workloads import workloads

Run = Callable[..., tuple[int, str, str]]


class Slow:
    """A machine of a given speed that counts how often it was asked."""

    def __init__(self) -> None:
        self.reads = 0

    def read_bandwidth(self) -> float:
        self.reads += 1
        return 1e9

    def gemm_peak(self, precision: Precision) -> float:
        return {"float32": 1e9, "bfloat16": 2e9, "int8": 4e9}[precision]


def test_each_workload_is_a_line_with_its_ceiling_and_share(tiny_model: Path) -> None:
    machine = Slow()
    lines = list(measure(EngineSettings(str(tiny_model), "auto", "none", 1), workloads((1, 3), 8, 4, 40), machine))
    assert [(line["peer"], line["what"]) for line in lines] == [
        ("triptych", what) for what in ("load", "decode", "decode", "prefill", "memory")
    ]
    load, *rates, memory = lines
    assert float(load["seconds"]) > 0
    assert [line.get("batch", line.get("tokens")) for line in rates] == [1, 3, 40]
    for line in rates:
        assert float(line["share"]) == pytest.approx(
            float(line["tok_s"]) / float(line["ceiling"]), rel=0.05, abs=2e-3
        )
        assert (line["read_gb_s"], line["gemm_gflop_s"]) == (1.0, 1.0)
    assert machine.reads == 4  # before, between and after three workloads
    assert int(memory["peak_bytes"]) > int(memory["weights_bytes"]) + int(memory["kv_bytes"])


def test_the_command_prints_json_lines(tiny_model: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triptych.cli.bench.engine.machine.READ_BYTES", 1 << 20)
    sizes = ("--batches", "2", "--prompt", "8", "--out", "3", "--prefill", "16", "--threads", "1")
    status, out, _ = run("bench", "engine", tiny_model, *sizes)
    assert status == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["what"] for line in lines] == ["load", "decode", "prefill", "memory"]
    assert all(line["peer"] == "triptych" for line in lines)


def test_what_cannot_be_measured_is_an_error(run: Run, tiny_model: Path) -> None:
    for arguments in (("/no/such/model",), (tiny_model, "--batches", "0"), (tiny_model, "--dtype", "float8")):
        status, out, err = run("bench", "engine", *arguments)
        assert (status, out) == (1, "")
        assert err.startswith("error: ")
