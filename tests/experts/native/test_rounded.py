"""Experts that no layer keeps may be read rounded: what comes out is what the rounded ones stand for, bit for bit."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from tests.support.random_experts import Made, make
from tests.support.resident import choices, in_memory, open_native
from tests.support.rounded_experts import coarse, with_rounded
from triptych.core.errors import DataLoss
from triptych.experts.settings import Rounding
from triptych.experts.store import PackedStore, mend_blob, rounded
from triptych.kernels import moe
from triptych.kernels.native import install

LAYERS, EXPERTS, TOP = 2, 8, 3


@dataclass(frozen=True)
class Case:
    """What is made: in one shape all rows are whole blocks or tiles of gate and up alone, in the other none are."""

    dtype: str
    to: Rounding
    hidden: int
    width: int


CASES = [
    Case(dtype, to, *shape)
    for dtype in ("bfloat16", "float32")
    for to in get_args(Rounding)
    for shape in ((64, 40), (61, 37))
]


@pytest.fixture(params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def made(case: Case, tmp_path: Path) -> Made:
    install()
    layer = (case.dtype, EXPERTS)
    exact = make(tmp_path / "pack", layer, layer, bias=case.dtype == "bfloat16", hidden=case.hidden, width=case.width)
    return with_rounded(exact, case.to)


def results(made: Made, quota: int, whose: Made, *, steps: int = 12) -> tuple[int, int]:
    """Compares steps with those of resident experts; reads, and the bytes of all of them."""
    dtype = _dtype(made)
    residency = open_native(made, EXPERTS + LAYERS * quota, (quota,) * LAYERS, most=0)
    resident = [in_memory(whose, layer) for layer in range(LAYERS)]
    for _ in range(steps):
        ids, weights = choices(2, TOP, EXPERTS)
        x = torch.randn(2, made.store.layers[0].layout.gate.inputs).to(dtype)
        for layer in range(LAYERS):
            out, expected = torch.empty_like(x), torch.empty_like(x)
            residency.ensure(layer, ids)
            moe(x, residency.experts(layer), ids, weights, "silu", out)
            moe(x, resident[layer], ids, weights, "silu", expected)
            assert torch.equal(out, expected)
        residency.check()
    counts = residency.counts
    residency.close()
    return counts.reads, counts.read_bytes


def test_layers_that_keep_nobody_compute_with_rounded_experts_alone(made: Made, case: Case) -> None:
    reads, read_bytes = results(made, 0, coarse(made, case.to))

    assert made.store.rounded is not None
    assert read_bytes == reads * made.store.rounded.blob_bytes


def test_layers_that_keep_everybody_read_none_of_them(made: Made) -> None:
    assert made.store.rounded is not None
    made.store.rounded.path.write_bytes(b"")

    reads, read_bytes = results(made, EXPERTS, made)

    assert reads
    assert read_bytes == reads * made.store.blob_bytes


@pytest.mark.parametrize("quota", [0, 3])
def test_without_the_permission_none_is_read(made: Made, quota: int) -> None:
    assert made.store.rounded is not None
    made.store.rounded.path.unlink()

    reads, read_bytes = results(replace(made, store=replace(made.store, rounded=None)), quota, made)

    assert read_bytes == reads * made.store.blob_bytes


def test_a_damaged_rounded_expert_is_mended_and_read_again(made: Made, case: Case) -> None:
    store = made.store.rounded
    assert store is not None
    with store.path.open("r+b") as file:
        file.seek(store.offset(1, 5) + 3)
        file.write(os.urandom(4000))

    def mend(layer: int, expert: int) -> PackedStore:
        assert store is not None
        assert mend_blob(store, layer, expert, lambda *who: rounded(made.experts[who], case.to))
        return made.store

    residency = open_native(made, EXPERTS, (0,) * LAYERS, most=0, mend=mend)
    ids, weights = torch.tensor([[1, 5, 6]], dtype=torch.int32), torch.rand(1, 3)
    x = torch.randn(1, case.hidden).to(_dtype(made))
    residency.ensure(1, ids)
    moe(x, residency.experts(1), ids, weights, "silu", torch.empty_like(x))
    with pytest.raises(DataLoss, match="to be repeated"):
        residency.check()
    out, expected = torch.empty_like(x), torch.empty_like(x)
    residency.ensure(1, ids)
    moe(x, residency.experts(1), ids, weights, "silu", out)
    residency.check()
    moe(x, in_memory(coarse(made, case.to), 1), ids, weights, "silu", expected)

    assert torch.equal(out, expected)
    residency.close()


def _dtype(made: Made) -> torch.dtype:
    return made.store.layers[0].layout.gate.values.dtype
