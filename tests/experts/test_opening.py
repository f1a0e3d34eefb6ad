import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.offloading import draw_ids, layer_of, no_mend
from tests.support.random_experts import Made, make
from triptych.core.errors import Internal, InvalidArgument
from triptych.experts.blob import BlobLayout, Matrix
from triptych.experts.native import NativeResidency
from triptych.experts.opening import open_residency
from triptych.experts.settings import Bytes, Fraction, OffloadSettings, PolicyName, Shares
from triptych.experts.steerable import Steerable
from triptych.experts.steered import SteeredResidency
from triptych.experts.store import write_pack
from triptych.experts.torch import TorchResidency
from triptych.experts.warm import warm_path
from triptych.kernels import moe
from triptych.kernels.native import install
from triptych.kernels.native.experts import MAX_INPUTS
from triptych.kernels.testing import random_blocks

EXPERTS, LAYERS = 8, 3
ALL = (tuple(range(EXPERTS)),) * LAYERS
SETTINGS = OffloadSettings(budget=Fraction(0.6), readers=2)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(tmp_path / "model.experts", *(("bfloat16", EXPERTS),) * LAYERS)


@pytest.fixture(params=["native", "torch"], autouse=True)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which of them compute; the implementation goes with them."""
    if install().isa is None and request.param == "native":
        pytest.skip("the kernels cannot be compiled here")
    if request.param == "torch":
        monkeypatch.setattr(moe, "_chosen", {})
    return str(request.param)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def wide(path: Path) -> Made:
    """Whose rows are longer than the kernels have room for."""
    return make(path, *(("bfloat16", EXPERTS),) * LAYERS, hidden=MAX_INPUTS + 32, width=16)


def of_two_kinds(path: Path) -> Made:
    """Whose gate and up are blocks of different kinds."""
    experts = {
        (layer, expert): (
            Matrix(random_blocks("Q4_0", 32, 64, 0.01)),
            Matrix(random_blocks("Q8_0", 32, 64, 0.001)),
            Matrix(random_blocks("Q4_0", 64, 32, 0.01)),
        )
        for layer in range(LAYERS)
        for expert in range(EXPERTS)
    }
    shape = [(BlobLayout.of(experts[0, 0]), EXPERTS)] * LAYERS
    return Made(dict(experts), write_pack(path, shape, lambda *who: experts[who]))


def opened(made: Made, settings: OffloadSettings = SETTINGS, rank: int = 0) -> SteeredResidency:
    return open_residency(
        made.store,
        no_mend,
        settings,
        device=torch.device("cpu"),
        dtype=torch.bfloat16,
        experts=ALL,
        top_k=[2] * LAYERS,
        rank=rank,
        clock=Clock(),
    )


def run(residency: SteeredResidency, made: Made, ids: torch.Tensor) -> None:
    for layer in range(LAYERS):
        inputs = made.store.layers[layer].layout.gate.inputs
        x, weights = torch.randn(len(ids), inputs).bfloat16(), torch.rand(ids.shape)
        residency.ensure(layer, ids)
        got, wanted = torch.empty_like(x), torch.empty_like(x)
        moe(x, residency.experts(layer), ids, weights, "silu", got)
        moe(x, layer_of(made, layer, ALL[layer]), ids, weights, "silu", wanted)
        assert torch.equal(got, wanted)
    residency.check()


@pytest.mark.parametrize("policy", ["lfu-decay", "lru", "static-hot", "ring"])
@pytest.mark.parametrize("shares", ["uniform", "shallow", "measured"])
def test_whatever_keeps_experts_results_are_those_of_resident_ones(
    made: Made, policy: PolicyName, shares: Shares
) -> None:
    residency = opened(made, replace(SETTINGS, policy=policy, shares=shares))
    for tokens in (1, 4, 1):
        run(residency, made, draw_ids(tokens, EXPERTS, 2))
    assert residency.counts.steps == 3
    residency.close()


def test_the_pool_takes_no_more_than_the_budget(made: Made) -> None:
    residency = opened(made)
    assert residency.nbytes <= 0.6 * made.store.nbytes < residency.nbytes + made.store.blob_bytes
    assert sum(residency.quotas) <= residency.pool.slots
    residency.close()


def test_a_budget_below_the_experts_of_a_layer_is_refused_with_what_it_takes(made: Made) -> None:
    least = EXPERTS * made.store.blob_bytes
    with pytest.raises(InvalidArgument, match=r"8 of .* KiB are .* KiB \(33.3% of all\)") as refused:
        opened(made, replace(SETTINGS, budget=Bytes(least - 1)))
    assert refused.value.field == "experts.budget"
    opened(made, replace(SETTINGS, budget=Bytes(least))).close()


def test_a_restart_finds_in_memory_who_was_needed_most(made: Made) -> None:
    first = opened(made)
    favourites = torch.tensor([[6, 7]], dtype=torch.int32)
    for _ in range(5):
        run(first, made, favourites)
    first.close()
    second = opened(made)
    run(second, made, favourites)
    assert second.counts.misses == 0
    second.close()


def test_a_start_is_cold_where_nothing_is_to_be_remembered(made: Made) -> None:
    settings = replace(SETTINGS, warm=False)
    for _ in range(2):
        residency = opened(made, settings)
        run(residency, made, torch.tensor([[6, 7]], dtype=torch.int32))
        assert residency.counts.misses == 2 * LAYERS
        residency.close()
    assert not warm_path(made.store, 0).exists()


def test_what_is_needed_most_is_written_now_and_then_not_only_at_the_end(made: Made) -> None:
    residency = opened(made)
    run(residency, made, torch.tensor([[1, 2]], dtype=torch.int32))
    assert not warm_path(made.store, 0).exists()
    residency._clock.now = 1000.0  # type: ignore[attr-defined]
    residency.check()
    assert warm_path(made.store, 0).exists()
    residency.close()


def test_ranks_remember_for_themselves(made: Made) -> None:
    one, other = opened(made, rank=0), opened(made, rank=1)
    run(one, made, torch.tensor([[0, 1]], dtype=torch.int32))
    run(other, made, torch.tensor([[6, 7]], dtype=torch.int32))
    one.close()
    other.close()
    again = opened(made, rank=1)
    run(again, made, torch.tensor([[6, 7]], dtype=torch.int32))
    assert again.counts.misses == 0
    again.close()


def test_steps_are_recorded_where_kernels_are_compiled(made: Made, kernels: str) -> None:
    residency = opened(made)
    assert residency.recordable is (kernels == "native")
    residency.close()


@pytest.mark.parametrize("pack", [wide, of_two_kinds])
def test_experts_that_no_compiled_kernel_takes_are_waited_for_by_python(
    tmp_path: Path, pack: Callable[[Path], Made], kernels: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = pack(tmp_path / "model.experts")
    residency = opened(made)
    assert not residency.recordable
    assert ("moe has no compiled kernel for experts of this form" in caplog.text) is (kernels == "native")
    for tokens in (1, 4, 1):
        run(residency, made, draw_ids(tokens, EXPERTS, 2))
    assert residency.counts.misses > 0
    residency.close()


def test_a_failure_once_experts_are_read_ends_the_readers(
    made: Made, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = NativeResidency if kernels == "native" else TorchResidency
    close, closed = kind.close, list[Steerable]()

    def noted(residency: Any) -> None:
        closed.append(residency)
        close(residency)

    def broken(*_: object) -> None:
        raise Internal("a defect")

    monkeypatch.setattr(kind, "close", noted)
    monkeypatch.setattr(kind, "warm", broken)
    with pytest.raises(Internal):
        opened(made)
    assert len(closed) == 1


def test_closing_twice_is_closing(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        residency = opened(made)
    assert "14 of 24 experts fit" in caplog.text
    residency.close()
    residency.close()
