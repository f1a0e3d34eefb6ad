"""More experts than the spare slots hold: they pass through in turns, and nobody who is kept makes room."""

import os
from pathlib import Path

import pytest
import torch
from random_experts import Made, make
from resident import choices, in_memory, open_native
from torch import Tensor

from triptych.core.errors import DataLoss
from triptych.experts.native import NativeResidency
from triptych.experts.settings import PolicyName
from triptych.experts.store import PackedStore
from triptych.kernels import Experts, moe
from triptych.kernels.native import install, team

HIDDEN, LAYERS, EXPERTS, TOP = 64, 3, 8, 3
QUOTA, SPARE, ROWS = 2, 3, 30
KEPT = (1, 2)  # those that `static-hot` names in these tests
POLICIES: tuple[PolicyName, ...] = ("lfu-decay", "lru", "static-hot")


@pytest.fixture(autouse=True)
def kernels() -> None:
    install()


def opened(made: Made, policy: PolicyName = "lfu-decay", *, most: int = 0) -> NativeResidency:
    return open_native(made, LAYERS * QUOTA + SPARE, (QUOTA,) * LAYERS, policy=policy, most=most)


def pack(path: Path, form: str = "bfloat16") -> Made:
    return make(path / "pack", *((form, EXPERTS),) * LAYERS)


def drawn(form: str = "bfloat16") -> tuple[Tensor, Tensor, Tensor]:
    """Rows that ask for all experts, ids and weights."""
    ids, weights = choices(ROWS, TOP, EXPERTS)
    ids[:EXPERTS, 0] = torch.arange(EXPERTS, dtype=torch.int32)
    ids[:EXPERTS, 1:] = (ids[:EXPERTS, :1] + torch.arange(1, TOP, dtype=torch.int32)) % EXPERTS
    return torch.randn(ROWS, HIDDEN).to(torch.float32 if form == "float32" else torch.bfloat16), ids, weights


def computed(experts: Experts, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
    out = torch.empty_like(x)
    moe(x, experts, ids, weights, "silu", out)
    return out


def keep(residency: NativeResidency) -> None:
    """Every layer keeps the same experts, which were asked for most, and last."""
    for _ in range(3):
        for layer in range(LAYERS):
            residency.ensure(layer, torch.tensor([KEPT], dtype=torch.int32))
            residency.settle()


@pytest.mark.parametrize("policy", POLICIES)
def test_nobody_who_is_kept_makes_room_and_the_bits_are_the_same(tmp_path: Path, policy: PolicyName) -> None:
    made = pack(tmp_path)
    residency = opened(made, policy)
    keep(residency)
    before = residency.counts
    for _ in range(2):
        for layer in range(LAYERS):
            x, ids, weights = drawn()
            residency.ensure(layer, ids)
            found = computed(residency.experts(layer), x, ids, weights)
            assert torch.equal(found, computed(in_memory(made, layer), x, ids, weights))
    after = residency.counts
    assert after.demanded - before.demanded == 2 * LAYERS * EXPERTS
    assert after.hits - before.hits == 2 * LAYERS * QUOTA
    assert after.reads - before.reads == after.misses - before.misses == 2 * LAYERS * (EXPERTS - QUOTA)
    for layer in range(LAYERS):
        residency.ensure(layer, torch.tensor([KEPT], dtype=torch.int32))
    assert residency.counts.misses == after.misses
    residency.close()


@pytest.mark.parametrize("form", ["bfloat16", "float32", "int8", "Q4_0", "Q8_0"])
def test_recorded_steps_in_waves_equal_resident_ones(tmp_path: Path, form: str, threads: int) -> None:
    made = pack(tmp_path, form)
    residency = opened(made, most=SPARE)
    x, ids, weights = drawn(form)
    outs = [torch.empty_like(x) for _ in range(LAYERS)]
    with team.capture() as program:
        for layer, out in enumerate(outs):
            residency.ensure(layer, ids)
            residency.prefetch((layer + 1) % LAYERS, torch.zeros(1, EXPERTS), TOP)
            moe(x, residency.experts(layer), ids, weights, "silu", out)
    for some in (EXPERTS, 2, EXPERTS, 5):
        new = drawn(form)
        x.copy_(new[0])
        ids.copy_(new[1] % some)
        program.run()
        residency.check()
        for layer, out in enumerate(outs):
            expected = computed(in_memory(made, layer), x, ids, weights)
            assert torch.equal(out.view(torch.uint8), expected.view(torch.uint8))
    residency.close()


def test_a_demand_may_be_computed_with_twice(tmp_path: Path) -> None:
    made = pack(tmp_path)
    residency = opened(made)
    x, ids, weights = drawn()
    residency.ensure(1, ids)
    for _ in range(2):
        found = computed(residency.experts(1), x, ids, weights)
        assert torch.equal(found, computed(in_memory(made, 1), x, ids, weights))
    residency.close()


@pytest.mark.parametrize("expert", [0, 4, 7])
def test_a_read_that_fails_in_any_wave_fails_the_step_which_is_right_once_it_is_mended(
    tmp_path: Path, expert: int
) -> None:
    made = pack(tmp_path)
    whole, asked = made.path.read_bytes(), []

    def mend(layer: int, number: int) -> PackedStore:
        asked.append((layer, number))
        made.path.write_bytes(whole)
        return made.store

    residency = open_native(made, LAYERS * QUOTA + SPARE, (QUOTA,) * LAYERS, mend=mend)
    with made.path.open("r+b") as file:
        file.seek(made.store.offset(1, expert) + 5)
        file.write(os.urandom(2000))
    x, ids, weights = drawn()
    residency.ensure(1, ids)
    computed(residency.experts(1), x, ids, weights)
    with pytest.raises(DataLoss, match=f"expert {expert} of mixture 1"):
        residency.check()
    assert asked == [(1, expert)]
    residency.ensure(1, ids)
    found = computed(residency.experts(1), x, ids, weights)
    residency.check()
    assert torch.equal(found, computed(in_memory(made, 1), x, ids, weights))
    residency.close()


def test_few_rows_take_one_wave(tmp_path: Path) -> None:
    residency = opened(pack(tmp_path))
    residency.ensure(0, torch.zeros(1, TOP, dtype=torch.int32))
    arrivals = residency.experts(0).arrivals
    assert arrivals is not None
    assert arrivals.waves is not None
    assert arrivals.waves.count == 1
    residency.ensure(0, torch.zeros(2, TOP, dtype=torch.int32))
    assert arrivals.waves.count == 1 + (2 * TOP - SPARE)
    residency.close()
