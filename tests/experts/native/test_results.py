"""What comes out is what resident experts give, bit for bit, whatever is in memory."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.random_experts import Made, make
from tests.support.resident import choices, computed, in_memory, open_native, recorded
from triptych.experts.native import NativeResidency, residency
from triptych.kernels import moe
from triptych.kernels.native import install
from triptych.kernels.native.residency import forked

FORMS = ["bfloat16", "float32", "int8", "Q4_0", "Q8_0"]
HIDDEN, LAYERS, EXPERTS, TOP = 64, 3, 8, 3
BUDGETS = ((EXPERTS, (0,) * LAYERS), (EXPERTS + 7, (1, 0, 4)), (LAYERS * EXPERTS, (EXPERTS,) * LAYERS))


@pytest.fixture(autouse=True)
def kernels() -> None:
    install()


def bits(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8)


def rows(form: str, tokens: int) -> Tensor:
    return torch.randn(tokens, HIDDEN).to(torch.float32 if form == "float32" else torch.bfloat16)


class Steps:
    """Recorded steps of two rows, beside resident experts."""

    def __init__(self, made: Made, kept: NativeResidency, form: str) -> None:
        self.form, self.kept = form, kept
        self.made = made
        self.ids, self.weights = choices(2, TOP, EXPERTS)
        self.x, self.out = rows(form, 2), rows(form, LAYERS * 2).chunk(LAYERS)
        self.program = recorded(kept, self.x, self.ids, self.weights, self.out, EXPERTS)

    def run(self, count: int, numbers: Sequence[int] = range(EXPERTS)) -> None:
        """`numbers`: of the experts that the residency has now."""
        resident = [in_memory(self.made, layer, numbers) for layer in range(LAYERS)]
        for _ in range(count):
            for tensor, new in zip((self.ids, self.weights), choices(2, TOP, EXPERTS), strict=True):
                tensor.copy_(new)
            self.x.copy_(rows(self.form, 2))
            self.program.run()
            self.kept.check()
            for layer, out in enumerate(self.out):
                expected = computed(resident[layer], self.x, self.ids, self.weights)
                assert torch.equal(bits(out), bits(expected))


def pack(path: Path, form: str, *, bias: bool = False) -> Made:
    return make(path, *((form, EXPERTS),) * LAYERS, bias=bias and form != "float32")


@pytest.mark.parametrize("form", FORMS)
def test_recorded_steps_equal_resident_ones_under_every_budget(tmp_path: Path, form: str, threads: int) -> None:
    made = pack(tmp_path / "pack", form, bias=bool(random.getrandbits(1)))
    for slots, quotas in BUDGETS:
        kept = open_native(made, slots, quotas, most=max(0, slots - EXPERTS - 2))
        Steps(made, kept, form).run(6)
        kept.close()


def test_experts_that_are_read_in_two_parts_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "_SPLIT", 0)
    made = pack(tmp_path / "pack", "bfloat16", bias=True)
    kept = open_native(made, EXPERTS + 7, (1, 0, 4), most=5)
    Steps(made, kept, "bfloat16").run(20)
    kept.close()


def test_more_rows_than_slots_that_are_kept_pass_through(tmp_path: Path) -> None:
    made = pack(tmp_path / "pack", "bfloat16")
    kept = open_native(made, EXPERTS + 3, (1, 1, 1), most=1)
    resident = in_memory(made, 1)
    for tokens in (30, 1, 30):
        x, (ids, weights) = rows("bfloat16", tokens), choices(tokens, TOP, EXPERTS)
        out, expected = torch.empty_like(x), torch.empty_like(x)
        kept.ensure(1, ids)
        moe(x, kept.experts(1), ids, weights, "silu", out)
        moe(x, resident, ids, weights, "silu", expected)
        assert torch.equal(out, expected)
    kept.check()
    kept.close()


def test_experts_may_change_between_steps(tmp_path: Path) -> None:
    made = pack(tmp_path / "pack", "bfloat16")
    kept = open_native(made, EXPERTS + 7, (2, 2, 2), most=3)
    steps = Steps(made, kept, "bfloat16")
    for _ in range(3):
        numbers = random.sample(range(EXPERTS), EXPERTS)
        for layer in range(LAYERS):
            kept.rebind(layer, tuple(numbers))
        steps.run(4, numbers)
    kept.close()


def test_the_trace_is_what_was_asked_for(tmp_path: Path) -> None:
    made = pack(tmp_path / "pack", "bfloat16")
    kept = open_native(made, EXPERTS, (0, 0, 0))
    asked = [(random.randrange(LAYERS), choices(tokens, TOP, EXPERTS)[0]) for tokens in (1, 3, 2, 1)]
    kept.trace(True)
    for layer, ids in asked:
        kept.ensure(layer, ids)
    assert [(each.layer, each.ids.tolist()) for each in kept.drain()] == [
        (layer, ids.tolist()) for layer, ids in asked
    ]
    assert kept.drain() == []
    kept.trace(False)
    kept.ensure(0, asked[0][1])
    assert kept.drain() == []
    kept.close()


def test_whoever_is_warm_is_there_before_the_first_step(tmp_path: Path) -> None:
    made = pack(tmp_path / "pack", "bfloat16")
    kept = open_native(made, EXPERTS + 6, (3, 3, 0))
    kept.warm([(0, 5), (1, 2), (0, 1), (0, 6), (0, 7), (2, 3)])
    kept.settle()
    kept.ensure(0, torch.tensor([[1, 5, 7]], dtype=torch.int32))
    assert (kept.counts.hits, kept.counts.misses) == (2, 1)
    kept.close()


def test_a_closed_residency_has_its_counts_and_reads_nothing(tmp_path: Path) -> None:
    made = pack(tmp_path / "pack", "bfloat16")
    kept = open_native(made, EXPERTS + 6, (3, 3, 0), most=3)
    steps = Steps(made, kept, "bfloat16")
    steps.run(2)
    counts = kept.counts
    kept.close()
    kept.close()
    assert kept.counts.demanded == counts.demanded > 0
    steps.program.run()  # waits for nobody
    assert kept.counts.reads >= counts.reads


def test_in_a_forked_child_whoever_asks_reads(tmp_path: Path) -> None:
    made = pack(tmp_path / "pack", "bfloat16")
    kept = open_native(made, EXPERTS + 6, (2, 2, 2), most=3)
    steps = Steps(made, kept, "bfloat16")
    steps.run(1)
    kept.settle()
    forked()
    steps.run(3)
    kept.close()
