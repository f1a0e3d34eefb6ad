"""More experts than the spare slots hold: they pass through in turns, and nobody who is kept makes room."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.random_experts import Made, make
from tests.support.resident import choices_of_all, computed, in_memory, open_native, recorded
from triptych.core.errors import DataLoss
from triptych.experts.native import NativeResidency
from triptych.experts.settings import PolicyName
from triptych.experts.store import PackedStore
from triptych.kernels import moe
from triptych.kernels.dispatch import NoBackend
from triptych.kernels.expert_slots import Waves
from triptych.kernels.native import experts as native_experts
from triptych.kernels.native import install, team
from triptych.kernels.native.expert_forms import ExpertsArgs

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
    ids, weights = choices_of_all(ROWS, TOP, EXPERTS)
    return torch.randn(ROWS, HIDDEN).to(torch.float32 if form == "float32" else torch.bfloat16), ids, weights


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
    program = recorded(residency, x, ids, weights, outs, EXPERTS)
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


def waves_of(residency: NativeResidency, layer: int) -> Waves:
    arrivals = residency.experts(layer).arrivals
    assert arrivals is not None
    assert arrivals.waves is not None
    return arrivals.waves


def test_few_rows_take_one_wave(tmp_path: Path) -> None:
    residency = opened(pack(tmp_path))
    residency.ensure(0, torch.zeros(1, TOP, dtype=torch.int32))
    assert waves_of(residency, 0).count == 1
    residency.ensure(0, torch.zeros(2, TOP, dtype=torch.int32))
    assert waves_of(residency, 0).count == 1 + (2 * TOP - SPARE)
    residency.close()


def test_a_step_that_is_not_recorded_ends_with_the_wave_that_has_the_last_expert(tmp_path: Path) -> None:
    made = pack(tmp_path)
    residency = opened(made)
    keep(residency)
    x, ids, weights = drawn()
    waves = waves_of(residency, 1)
    enter, entered = waves.enter, list[int]()

    def noted(wave: int) -> None:
        entered.append(wave)
        enter(wave)

    waves.enter = noted
    few = torch.tensor([[0, 1, 2]], dtype=torch.int32).repeat(ROWS, 1)
    for asked, needed in ((few, {1}), (ids, {2, 3, 4, 5, 6}), (few, {1})):
        residency.ensure(1, asked)
        assert waves.count == EXPERTS - SPARE + 1
        found = computed(residency.experts(1), x, asked, weights)
        assert torch.equal(found, computed(in_memory(made, 1), x, asked, weights))
        assert len(entered) in needed
        assert entered == list(range(len(entered)))
        entered.clear()
    residency.close()


def test_recorded_waves_share_their_arguments(tmp_path: Path) -> None:
    residency = opened(pack(tmp_path))
    x, ids, weights = drawn()
    residency.ensure(0, ids)
    with team.capture() as program:
        moe(x, residency.experts(0), ids, weights, "silu", torch.empty_like(x))
    products = [args for args, _ in program._kept if isinstance(args, ExpertsArgs)]
    assert len(products) == 2 * waves_of(residency, 0).count == 2 * (EXPERTS - SPARE + 1)
    assert len({id(args) for args in products}) == 2
    residency.close()


@pytest.mark.parametrize("recorded", [False, True], ids=["", "recorded"])
def test_each_part_of_too_many_rows_goes_through_all_waves(
    tmp_path: Path, recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pack(tmp_path, "int8")
    residency = opened(made)
    x, ids, weights = drawn("int8")
    expected = computed(in_memory(made, 1), x, ids, weights)
    monkeypatch.setattr(native_experts, "MAX_TOKENS", ROWS // 3 - 1)
    if recorded:
        found = torch.empty_like(x)
        with team.capture() as program:
            residency.ensure(1, ids)
            moe(x, residency.experts(1), ids, weights, "silu", found)
        program.run()
    else:
        residency.ensure(1, ids)
        found = computed(residency.experts(1), x, ids, weights)
    residency.check()
    assert torch.equal(found, expected)
    residency.close()


def test_what_waits_for_nobody_is_given_nobody_who_may_be_missing(tmp_path: Path) -> None:
    residency = opened(pack(tmp_path))
    x, ids, weights = drawn()
    residency.ensure(0, ids)
    with pytest.raises(NoBackend, match="waits for no experts"):
        moe.implementation("reference")(x, residency.experts(0), ids, weights, "silu", torch.empty_like(x))
    with pytest.raises(NoBackend, match="waits for no experts"):  # which compiled kernels do not take
        moe(x, residency.experts(0), ids.long(), weights, "silu", torch.empty_like(x))
    residency.close()
