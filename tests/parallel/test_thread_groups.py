"""Groups of threads give what gloo gives, and count the same bytes."""

import pytest
import torch
from torch import Tensor

from triptych.parallel import Mesh, Parallelism, RankLost
from triptych.parallel.testing import run_ranks, run_threads

GRID = Parallelism(3, 2, "tensor")


def collectives(mesh: Mesh) -> tuple[list[Tensor], list[tuple[int, int]]]:
    found: list[Tensor] = []
    for group in (mesh.tensor, mesh.expert, mesh.attention):
        x = torch.arange(24.0).view(12, 2) + 100 * mesh.rank
        gathered = torch.empty(group.size, 12, 2)
        group.all_gather(x, gathered)
        sent = [group.rank, *[1] * (group.size - 1)]
        counts = torch.empty(group.size, 1, dtype=torch.int64)
        group.all_to_all(torch.tensor(sent).unsqueeze(1), [1] * group.size, counts, [1] * group.size)
        incoming = counts.flatten().tolist()
        rows = torch.empty(sum(incoming), 2)
        group.all_to_all(x[: sum(sent)], sent, rows, incoming)
        group.all_reduce(x)
        found += [gathered, counts, rows, x]
    groups = (mesh.tensor, mesh.expert, mesh.attention)
    return found, [(group.traffic.calls.total(), group.traffic.total_bytes) for group in groups]


def test_results_and_bytes_are_those_of_gloo() -> None:
    for (ours, bytes_), (theirs, expected) in zip(
        run_threads(GRID, collectives), run_ranks(GRID, collectives), strict=True
    ):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert bytes_ == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_small_sums_have_the_bits_of_gloo(dtype: torch.dtype) -> None:
    seed = int(torch.randint(1 << 30, ()))
    print(f"seed {seed}")
    parts = torch.randn(4, 30, 100, generator=torch.Generator().manual_seed(seed)).to(dtype)

    def run(mesh: Mesh) -> Tensor:
        x = parts[mesh.rank].clone()
        mesh.tensor.all_reduce(x)
        return x

    four = Parallelism(tensor=4)
    for ours, theirs in zip(run_threads(four, run), run_ranks(four, run), strict=True):
        assert torch.equal(ours, theirs)


def test_a_rank_that_fails_frees_the_others() -> None:
    def run(mesh: Mesh) -> None:
        if mesh.rank == 1:
            raise ValueError("broken")
        mesh.attention.all_reduce(torch.zeros(1))

    with pytest.raises(ValueError, match="broken"):
        run_threads(Parallelism(tensor=3), run)


def test_a_rank_that_stays_away_is_given_up() -> None:
    def run(mesh: Mesh) -> None:
        if mesh.rank == 0:
            mesh.attention.all_reduce(torch.zeros(1))

    with pytest.raises(RankLost, match="has not come in time"):
        run_threads(Parallelism(tensor=2), run, patience=0.2)
