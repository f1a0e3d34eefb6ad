"""The ceilings against sums written out by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from triptych.cli.bench.engine.ceiling import Cost, Rates, ceiling, weight_bytes, weights_in
from triptych.cli.bench.engine.machine import Machine, gemm_peak, read_bandwidth, scan_bandwidth
from triptych.cli.bench.engine.measure import linear_precision
from triptych.cli.bench.engine.workloads import Decode, Prefill
from triptych.engine import Engine
from triptych.kernels import DenseWeight, GgufWeight, Int8Weight
from triptych.kernels.native.compile import NotAvailable

COST = Cost(
    step_bytes=1000,
    expert_bytes=0,
    expert_share=0.0,
    weights_bytes=1200,
    kv_bytes=10,
    linear_operations=600,
    attention_operations=4,
    head_operations=50,
)
FAST = 1e30


def test_decode_bound_by_memory_reads_weights_and_kv_once_a_step() -> None:
    rates = Rates(read=100.0, linear=FAST, attention=FAST)
    # Prompts of 5, then steps that read 6 and 7 cached positions for each of the two sequences.
    seconds = 1000 / 100 + (1000 + 2 * 6 * 10) / 100 + (1000 + 2 * 7 * 10) / 100
    assert ceiling(Decode(2, 5, 3), 5, COST, rates) == pytest.approx(2 * 3 / seconds)


def test_decode_bound_by_computing() -> None:
    rates = Rates(read=FAST, linear=100.0, attention=10.0)
    prompts = (2 * 5 * 600 + 2 * 50) / 100 + 2 * (1 + 2 + 3 + 4 + 5) * 4 / 10
    step = (2 * 600 + 2 * 50) / 100 + 2 * 6 * 4 / 10
    assert ceiling(Decode(2, 5, 2), 5, COST, rates) == pytest.approx(2 * 2 / (prompts + step))


def test_a_step_reads_as_many_experts_as_its_rows_choose() -> None:
    rates = Rates(read=100.0, linear=FAST, attention=FAST)
    cost = replace(COST, expert_bytes=400, expert_share=0.25, kv_bytes=0)
    # A prompt of one row, then steps of one.
    assert ceiling(Decode(1, 1, 2), 1, cost, rates) == pytest.approx(2 / (2 * (1000 + 100) / 100))
    # Prompts of two rows together, then steps of two: three of four experts are left out by both 9 times of 16.
    assert ceiling(Decode(2, 1, 2), 1, cost, rates) == pytest.approx(4 / (2 * (1000 + 400 * 7 / 16) / 100))


def test_prefill_counts_the_head_once_and_causal_attention() -> None:
    rates = Rates(read=FAST, linear=100.0, attention=10.0)
    seconds = (7 * 600 + 50) / 100 + 28 * 4 / 10
    assert ceiling(Prefill(8), 7, COST, rates) == pytest.approx(8 / seconds)


def test_each_step_takes_the_longer_of_reading_and_computing() -> None:
    rates = Rates(read=100.0, linear=100.0, attention=FAST)
    reading, computing = (1000 + 6 * 10) / 100, (5 * 600 + 50) / 100  # of the answer's step, of the prompt's
    assert ceiling(Decode(1, 5, 2), 5, COST, rates) == pytest.approx(2 / (computing + reading))


def test_the_cost_of_a_loaded_model(tiny_model: Path) -> None:
    cost = Cost.of(Engine(str(tiny_model), dtype="float32", kv_cache_memory=1 << 20).core.decoder)
    layer = 48 * (6 * 8) * 2 + 48 * (2 * 8) * 2 + 3 * 48 * 80
    assert cost.linear_operations == 2 * 2 * layer
    assert cost.attention_operations == 2 * 4 * 6 * 8
    assert cost.head_operations == 2 * 512 * 48
    assert cost.kv_bytes == 2 * 2 * 2 * 8 * 4
    assert cost.weights_bytes == 4 * (2 * layer + 2 * 512 * 48)
    assert cost.step_bytes == 4 * (2 * layer + 512 * 48)


def test_every_form_of_a_weight_has_its_bytes() -> None:
    dense = DenseWeight(torch.zeros(3, 8, dtype=torch.bfloat16))
    int8 = Int8Weight(torch.zeros(2, 3, 16, 4, dtype=torch.int8), torch.zeros(20), 10)
    blocks = GgufWeight(torch.zeros(5, 40, dtype=torch.uint8), "Q4_1", 64)
    assert [weight_bytes(weight) for weight in (dense, int8, blocks)] == [48, 384 + 80, 200]
    assert list(weights_in((dense, (int8,), "no weight", blocks))) == [dense, int8, blocks]


@pytest.mark.parametrize(
    ("dtype", "quantization", "expected"),
    [("bfloat16", "none", "bfloat16"), ("float32", "none", "float32"), ("bfloat16", "int8", "int8"),
     ("float32", "int8", "int8"), ("bfloat16", "gguf", "int8"), ("float32", "gguf", "float32")],
)  # fmt: skip
def test_the_peak_is_that_of_what_the_projections_multiply_in(dtype: str, quantization: str, expected: str) -> None:
    assert linear_precision(dtype, quantization) == expected  # type: ignore[arg-type]


def test_the_machine_is_measured_and_torch_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    found = [read_bandwidth(1), scan_bandwidth(1), gemm_peak(before + 1, "bfloat16"), gemm_peak(before + 1, "int8")]
    assert all(rate > 1e6 for rate in found)
    assert torch.get_num_threads() == before


def test_without_a_compiler_memory_is_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(threads: int) -> float:
        raise NotAvailable("there is no compiler")

    monkeypatch.setattr("triptych.kernels.native.probe.read_bandwidth", missing)
    monkeypatch.setattr("triptych.cli.bench.engine.machine.scan_bandwidth", lambda threads: 100.0 * threads)
    assert read_bandwidth(2) == 200.0


def test_a_process_of_its_own_measures() -> None:
    with Machine(1) as machine:
        assert machine.read_bandwidth() > 1e6
