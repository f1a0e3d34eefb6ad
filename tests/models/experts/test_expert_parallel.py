"""Mixtures whose experts are divided among ranks, against the same mixture on one rank."""

import random
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from tests.support.mixtures import HIDDEN, SHAPES, SHARED, Whole, off, rows_of
from triptych.core.errors import InvalidArgument
from triptych.kernels import native
from triptych.parallel import Mesh, Parallelism
from triptych.parallel.balance import Placement
from triptych.parallel.testing import run_ranks, run_threads

native.install()
GRIDS = [Parallelism(1, 2), Parallelism(1, 3), Parallelism(1, 4), Parallelism(2, 2)]
GRIDS += [Parallelism(grid.tensor, grid.expert, "tensor") for grid in GRIDS]


RunAll = Callable[[Parallelism, Callable[[Mesh], Tensor]], tuple[Tensor, ...]]


def named(grid: Parallelism) -> str:
    return f"tp{grid.tensor}-ep{grid.expert}-{grid.attention}"


def lanes_of(grid: Parallelism, counts: list[int], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """The rows of every lane, by rank."""
    lanes = [rows_of(count, dtype) for count in counts[: grid.lanes]]
    return [lanes[grid.lane(rank)] for rank in range(grid.size)]


def divided(
    whole: Whole, grid: Parallelism, placement: Placement, x: list[Tensor], run_all: RunAll = run_threads
) -> tuple[Tensor, ...]:
    def run(mesh: Mesh) -> Tensor:
        return whole.run(whole.part(mesh, placement), x[mesh.rank], SHARED // mesh.attention.size)

    return run_all(grid, run)


@pytest.mark.parametrize("grid", GRIDS, ids=named)
@pytest.mark.parametrize("name", SHAPES)
def test_what_ranks_leave_is_what_one_leaves(name: str, grid: Parallelism) -> None:
    whole = Whole.random(SHAPES[name])
    placement = Placement.even(whole.shape.experts, grid.expert)
    for counts in ([9, 5, 17, 3], [1, 0, 0, 2], [0, 4, 0, 0]):
        x = lanes_of(grid, counts)
        for ours, rows in zip(divided(whole, grid, placement, x), x, strict=True):
            assert off(ours, whole.run(whole.mixture, rows)) <= 1e-5


@pytest.mark.parametrize("attention", ["data", "tensor"])
def test_where_experts_are_changes_no_bit(attention: Literal["data", "tensor"]) -> None:
    whole, grid = Whole.random(SHAPES["olmoe"]), Parallelism(1, 4, attention)
    x = lanes_of(grid, [7, 3, 0, 5])
    found = []
    for _ in range(4):
        slots = [*range(8), *(random.randrange(8) for _ in range(4))]
        random.shuffle(slots)
        placement = Placement(tuple(tuple(slots[3 * rank : 3 * rank + 3]) for rank in range(4)))
        found.append(divided(whole, grid, placement, x))
    expected = [whole.run(whole.mixture, rows) for rows in x]
    for results in found:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(results, expected, strict=True))


@pytest.mark.parametrize("run_all", [run_threads, run_ranks])
def test_a_rank_whose_experts_nobody_wants_takes_part(run_all: RunAll) -> None:
    whole, grid = Whole.random(SHAPES["mixtral"]), Parallelism(1, 3)
    router = whole.mixture.router.weight.values
    router[4:], router[:4] = 0, torch.eye(4, HIDDEN)
    x = [rows_of(count).abs() for count in (6, 0, 2)]
    for ours, rows in zip(divided(whole, grid, Placement.even(6, 3), x, run_all), x, strict=True):
        assert off(ours, whole.run(whole.mixture, rows)) <= 1e-5


@pytest.mark.parametrize(("payload", "limit"), [("int8", 0.05), ("fp8", 0.15)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eight_bits_on_the_way_cost_little(payload: Literal["int8", "fp8"], limit: float, dtype: torch.dtype) -> None:
    whole, grid = Whole.random(SHAPES["olmoe"], dtype), Parallelism(1, 4, payload=payload)
    x = lanes_of(grid, [9, 5, 17, 3], dtype)
    for ours, rows in zip(divided(whole, grid, Placement.even(8, 4), x), x, strict=True):
        expected = whole.run(whole.mixture, rows).float()
        error = (ours.float() - expected).norm(dim=-1) / expected.norm(dim=-1)
        assert 0 < error.max() <= limit


def test_many_rows_are_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triptych.models.expert_exchange.AT_ONCE", 7)
    whole, grid = Whole.random(SHAPES["gpt_oss"]), Parallelism(1, 2)
    x = lanes_of(grid, [19, 5])
    for ours, rows in zip(divided(whole, grid, Placement.even(7, 2), x), x, strict=True):
        assert off(ours, whole.run(whole.mixture, rows)) <= 1e-5


def test_a_form_that_is_none_is_refused() -> None:
    fp4: Any = "fp4"
    with pytest.raises(InvalidArgument, match="expert_payload must be one of plain, int8, fp8, got 'fp4'"):
        Parallelism(1, 2, payload=fp4)
