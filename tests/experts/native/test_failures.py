"""What cannot be read is said after the step, hangs nobody, and is read again once it has been mended."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.random_experts import Made, make
from tests.support.resident import in_memory, open_native
from triptych.core.errors import DataLoss, Unavailable
from triptych.experts.native import NativeResidency
from triptych.experts.store import PackedStore
from triptych.kernels import moe
from triptych.kernels.native import install

HIDDEN, EXPERTS = 64, 6
IDS = torch.tensor([[1, 4], [5, 1]], dtype=torch.int32)


@pytest.fixture
def made(tmp_path: Path) -> Made:
    install()
    return make(tmp_path / "pack", ("bfloat16", EXPERTS), ("bfloat16", EXPERTS))


class Mender:
    """Puts the file back as it was."""

    def __init__(self, made: Made) -> None:
        self.store, self.whole = made.store, made.path.read_bytes()
        self.asked: list[tuple[int, int]] = []

    def __call__(self, layer: int, expert: int) -> PackedStore:
        self.asked.append((layer, expert))
        self.store.path.unlink(missing_ok=True)
        self.store.path.write_bytes(self.whole)
        return self.store


def step(residency: NativeResidency, x: Tensor, layer: int = 0) -> Tensor:
    out = torch.empty_like(x)
    residency.ensure(layer, IDS)
    moe(x, residency.experts(layer), IDS, torch.ones(2, 2), "silu", out)
    return out


def expected(made: Made, x: Tensor, layer: int = 0) -> Tensor:
    out = torch.empty_like(x)
    moe(x, in_memory(made, layer), IDS, torch.ones(2, 2), "silu", out)
    return out


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def damage_down(made: Made) -> None:
    flip(made.path, made.store.offset(0, 4) + made.store.layers[0].layout.nbytes - 1)


def damage_gate(made: Made) -> None:
    flip(made.path, made.store.offset(0, 4))


def truncate(made: Made) -> None:
    os.truncate(made.path, made.store.offset(0, 4) + 100)


def close_to_readers(made: Made) -> None:
    """Its descriptor is one that cannot be read from, as if the disk was gone; so is the file."""
    found = [fd for fd in Path("/proc/self/fd").iterdir() if fd.exists() and fd.samefile(made.path)]
    made.path.unlink()
    with Path(os.devnull).open("wb") as sink:
        for descriptor in found:
            os.dup2(sink.fileno(), int(descriptor.name))


@pytest.mark.parametrize(
    ("harm", "error", "failed"),
    [
        (damage_gate, DataLoss, [(0, 4)]),
        (damage_down, DataLoss, [(0, 4)]),
        (truncate, Unavailable, [(0, 4), (0, 5)]),
        (close_to_readers, Unavailable, [(0, 1), (0, 4), (0, 5)]),
    ],
)
def test_the_step_says_so_and_is_right_once_it_is_mended(
    made: Made, harm: Callable[[Made], None], error: type[Exception], failed: list[tuple[int, int]]
) -> None:
    mender, x = Mender(made), torch.randn(2, HIDDEN).bfloat16()
    residency = open_native(made, EXPERTS, (0, 0), mend=mender)
    harm(made)
    step(residency, x)
    with pytest.raises(error, match="expert"):
        residency.check()
    assert sorted(mender.asked) == failed
    assert torch.equal(step(residency, x), expected(made, x))
    residency.check()
    assert residency.counts.failed_reads == len(failed)
    residency.close()


def test_what_nobody_asked_for_fails_without_a_word(made: Made) -> None:
    x = torch.randn(2, HIDDEN).bfloat16()
    residency = open_native(made, 2 * EXPERTS, (0, 0), most=4, mend=Mender(made))
    flip(made.path, made.store.offset(1, 2))
    residency.prefetch(1, torch.eye(EXPERTS)[2:3], 1)
    residency.settle()
    residency.check()
    assert residency.counts.failed_reads == 1
    assert torch.equal(step(residency, x, 1), expected(made, x, 1))
    residency.check()


def test_what_was_read_in_advance_and_failed_fails_the_step_that_asks(made: Made) -> None:
    x = torch.randn(2, HIDDEN).bfloat16()
    residency = open_native(made, 2 * EXPERTS, (0, 0), most=4, mend=Mender(made))
    damage_gate(made)
    residency.prefetch(0, torch.eye(EXPERTS)[4:5], 1)
    residency.settle()
    step(residency, x)
    with pytest.raises(DataLoss):
        residency.check()
    assert torch.equal(step(residency, x), expected(made, x))


def test_what_lost_its_slot_to_a_later_layer_still_fails_the_step(made: Made) -> None:
    mender, x = Mender(made), torch.randn(2, HIDDEN).bfloat16()
    residency = open_native(made, EXPERTS, (0, 0), mend=mender)
    damage_gate(made)
    everybody = torch.arange(EXPERTS, dtype=torch.int32).view(1, EXPERTS)
    step(residency, x)
    residency.settle()
    residency.ensure(1, everybody)
    with pytest.raises(DataLoss, match="expert 4 of mixture 0"):
        residency.check()
    assert mender.asked == [(0, 4)]
    residency.check()
    assert torch.equal(step(residency, x), expected(made, x))
    residency.check()


def test_where_it_cannot_be_mended_every_step_says_so(made: Made) -> None:
    x = torch.randn(2, HIDDEN).bfloat16()
    residency = open_native(made, EXPERTS, (0, 0))
    damage_down(made)
    for _ in range(3):
        step(residency, x)
        with pytest.raises(DataLoss, match="expert 4 of mixture 0"):
            residency.check()
    assert torch.equal(step(residency, x, 1), expected(made, x, 1))
    residency.check()


def test_a_file_that_is_not_there_is_not_opened(made: Made) -> None:
    made.path.unlink()
    with pytest.raises(Unavailable, match="No such file"):
        open_native(made, EXPERTS, (0, 0))


def test_scores_of_a_step_that_failed_foretell_nobody(made: Made) -> None:
    residency = open_native(made, 2 * EXPERTS, (0, 0), most=4)
    scores = torch.full((2, EXPERTS), torch.nan)
    residency.prefetch(1, scores, 3)
    scores[1] = torch.arange(EXPERTS)
    residency.prefetch(1, scores, 3)
    assert residency.counts.prefetched == 0
    residency.close()


def test_what_has_been_read_before_is_looked_at_again(made: Made) -> None:
    mender, x = Mender(made), torch.randn(2, HIDDEN).bfloat16()
    residency = open_native(made, EXPERTS, (0, 0), mend=mender)
    assert torch.equal(step(residency, x), expected(made, x))
    residency.ensure(1, torch.arange(EXPERTS, dtype=torch.int32)[None])  # takes every slot
    residency.check()
    damage_down(made)
    step(residency, x)
    with pytest.raises(DataLoss):
        residency.check()
    assert mender.asked == [(0, 4)]
    assert torch.equal(step(residency, x), expected(made, x))
    residency.close()


def test_what_was_foretold_in_vain_for_the_last_layer_is_nothing_to_check(made: Made) -> None:
    x = torch.randn(2, HIDDEN).bfloat16()
    residency = open_native(made, 2 * EXPERTS, (0, 0), most=4, readers=1)
    for _ in range(50):
        residency.prefetch(1, torch.eye(EXPERTS)[[0, 2, 3]], 1)
        assert torch.equal(step(residency, x, 1), expected(made, x, 1))
        residency.check()
        residency.ensure(0, torch.arange(EXPERTS, dtype=torch.int32)[None])
        residency.check()
    residency.close()


def test_scores_go_where_their_experts_go(made: Made) -> None:
    residency = open_native(made, EXPERTS + 4, (2, 2))
    for _ in range(5):
        residency.ensure(0, torch.tensor([[0, 1]], dtype=torch.int32))
        residency.check()
    residency.rebind(0, (5, 4, 3, 2, 1, 0))
    for ids in ([4, 5], [2, 3], [0, 1]):  # the favourites, then others once each
        residency.ensure(0, torch.tensor([ids], dtype=torch.int32))
        residency.settle()  # who is on the way when room is needed takes it from whoever is kept
    before = residency.counts.hits
    residency.ensure(1, torch.arange(EXPERTS, dtype=torch.int32)[None])
    residency.ensure(0, torch.tensor([[4, 5]], dtype=torch.int32))
    assert residency.counts.hits == before + 2
    residency.close()
