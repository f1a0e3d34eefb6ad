"""Python reads the same experts rounded as compiled code does, and expands them to the same bits."""

from pathlib import Path
from typing import get_args

import pytest
import torch

from tests.support.offloading import layer_of, mixed, pool_for, scores_of, step
from tests.support.random_experts import Made, make
from tests.support.resident import choices
from tests.support.rounded_experts import coarse, with_rounded
from triptych.experts.native import NativeResidency
from triptych.experts.pool import Pool
from triptych.experts.residency import Residency
from triptych.experts.settings import Fraction, OffloadSettings, Rounding
from triptych.experts.torch import open_cpu
from triptych.kernels import moe
from triptych.kernels.native import install

HIDDEN, LAYERS, EXPERTS, TOP = 64, 2, 8, 3
SETTINGS = OffloadSettings(budget=Fraction(0.5), readers=2)
ALL = [tuple(range(EXPERTS))] * LAYERS


@pytest.fixture(params=get_args(Rounding))
def to(request: pytest.FixtureRequest) -> Rounding:
    found: Rounding = request.param
    return found


@pytest.fixture(params=["bfloat16", "float32"])
def made(request: pytest.FixtureRequest, tmp_path: Path, to: Rounding) -> Made:
    layer = (request.param, EXPERTS)
    return with_rounded(make(tmp_path / "pack", layer, layer, bias=request.param == "bfloat16"), to)


def test_layers_that_keep_nobody_compute_with_rounded_experts_alone(made: Made, to: Rounding) -> None:
    residency = open_cpu(
        made.store,
        lambda *_: made.store,
        SETTINGS,
        pool_for(made.store, EXPERTS, [0] * LAYERS),
        scores_of(made.store),
        ALL,
    )
    stand_for = coarse(made, to)
    for _ in range(8):
        for layer in range(LAYERS):
            ids, weights = choices(2, TOP, EXPERTS)
            x = torch.randn(2, HIDDEN).bfloat16()
            got = step(residency, layer, x, ids, weights)
            assert torch.equal(got, mixed(layer_of(stand_for, layer, ALL[layer]), x, ids, weights))
        residency.check()
    counts = residency.counts
    assert made.store.rounded is not None
    assert counts.read_bytes == counts.reads * made.store.rounded.blob_bytes
    residency.close()


def test_compiled_code_reads_the_same_experts_rounded(made: Made) -> None:
    install()
    pool = Pool(EXPERTS + 6, made.store.blob_bytes, (3, 3), 0)
    python = open_cpu(made.store, lambda *_: made.store, SETTINGS, pool, scores_of(made.store), ALL)
    native = NativeResidency(made.store, lambda *_: made.store, SETTINGS, pool, scores_of(made.store), ALL)
    dtype = made.store.layers[0].layout.gate.values.dtype
    for _ in range(25):
        for layer in range(LAYERS):
            ids, weights = choices(1, TOP, EXPERTS)
            x = torch.randn(1, HIDDEN).to(dtype)
            results = [_computed(one, layer, x, ids, weights) for one in (python, native)]
            assert torch.equal(*results)
        python.check()
        native.check()
    assert python.counts.read_bytes == native.counts.read_bytes
    assert made.store.rounded is not None
    size = python.counts.read_bytes / python.counts.reads
    assert made.store.rounded.blob_bytes < size < made.store.blob_bytes  # some of both
    python.close()
    native.close()


def _computed(
    residency: Residency, layer: int, x: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """By the compiled kernel."""
    residency.ensure(layer, ids)
    out = torch.empty_like(x)
    moe(x, residency.experts(layer), ids, weights, "silu", out)
    return out
