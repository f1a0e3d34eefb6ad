"""Waves that are gone through again: of a demand that is computed with twice, or of a step in which a read failed."""

import os
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.random_experts import Made, make
from tests.support.resident import choices_of_all, computed, in_memory, open_native, recorded
from triptych.core.errors import DataLoss
from triptych.experts.blob import PAGE
from triptych.experts.native import residency as native_residency
from triptych.experts.store import PackedStore
from triptych.kernels.native import install

HIDDEN, LAYERS, EXPERTS, TOP = 64, 3, 8, 3
QUOTA, SPARE, ROWS = 2, 3, 30


@pytest.fixture
def made(tmp_path: Path) -> Made:
    install()
    return make(tmp_path / "pack", *(("bfloat16", EXPERTS),) * LAYERS, piece=PAGE)


def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """Rows that ask for all experts, ids and weights."""
    ids, weights = choices_of_all(ROWS, TOP, EXPERTS)
    return torch.randn(ROWS, HIDDEN).bfloat16(), ids, weights


def test_a_demand_that_is_computed_with_twice_counts_once(made: Made) -> None:
    residency = open_native(made, SPARE, (0,) * LAYERS)
    x, ids, weights = drawn()
    residency.ensure(1, ids)
    for _ in range(2):
        found = computed(residency.experts(1), x, ids, weights)
        assert torch.equal(found, computed(in_memory(made, 1), x, ids, weights))
    counts = residency.counts
    assert counts.demanded == counts.misses == EXPERTS < counts.reads
    residency.close()


@pytest.mark.parametrize("split", [0, 1 << 40])
def test_whatever_fails_in_a_recorded_step_the_step_is_right_once_it_is_mended(
    made: Made, split: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers keep their first experts, and some more are read in advance, but none from the fourth on."""
    monkeypatch.setattr(native_residency, "_SPLIT", split)
    whole, asked = made.path.read_bytes(), list[tuple[int, int]]()

    def mend(layer: int, number: int) -> PackedStore:
        asked.append((layer, number))
        made.path.write_bytes(whole)
        return made.store

    residency = open_native(made, LAYERS * QUOTA + SPARE, (QUOTA,) * LAYERS, most=SPARE, readers=3, mend=mend)
    inputs = x, ids, weights = drawn()
    outs = [torch.empty_like(x) for _ in range(LAYERS)]
    program = recorded(residency, x, ids, weights, outs, EXPERTS)

    def step() -> None:
        program.run()
        residency.settle()
        residency.check()

    step()
    failing = [(layer, expert) for layer in range(LAYERS) for expert in range(TOP, EXPERTS)]
    random.shuffle(failing)
    for layer, expert in failing:
        for old, new in zip(inputs, drawn(), strict=True):
            old.copy_(new)
        damage(made, layer, expert)
        with pytest.raises(DataLoss, match=f"expert {expert} of mixture {layer}"):
            step()
        step()
        for number, out in enumerate(outs):
            assert torch.equal(out, computed(in_memory(made, number), x, ids, weights))
    assert asked == failing
    assert residency.counts.failed_reads == len(failing)
    residency.close()


def damage(made: Made, layer: int, expert: int) -> None:
    """Changes one byte."""
    with made.path.open("r+b") as file:
        file.seek(made.store.offset(layer, expert) + random.randrange(made.store.layers[layer].layout.nbytes))
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
