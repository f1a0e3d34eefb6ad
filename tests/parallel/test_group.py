"""Collectives over gloo, ranks as threads."""

import threading
from dataclasses import replace
from typing import cast

import pytest
import torch
import torch.distributed as dist

from triptych.parallel import Mesh, Parallelism, RankLost
from triptych.parallel.testing import run_ranks
from triptych.parallel.torch_group import TorchGroup
from triptych.parallel.traffic import SMALL_BYTES


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.int8])
def test_collectives_move_what_they_say(dtype: torch.dtype) -> None:
    def run(mesh: Mesh) -> None:
        group, rank = mesh.tensor, mesh.rank
        x = torch.full((5, 4), rank + 1, dtype=dtype)
        gathered = torch.empty(3, 5, 4, dtype=dtype)
        group.all_gather(x, gathered)
        assert gathered[:, 0, 0].tolist() == [1, 2, 3]
        sent = [[0, 2, 3], [5, 0, 0], [1, 1, 3]]
        received = [row[rank] for row in sent]
        out = torch.empty(sum(received), 4, dtype=dtype)
        group.all_to_all(x, sent[rank], out, received)
        assert out[:, 0].tolist() == [source + 1 for source, count in enumerate(received) for _ in range(count)]
        group.all_reduce(x)
        assert bool((x == 6).all())

    run_ranks(Parallelism(tensor=3), run)


def test_a_grid_has_rows_columns_and_lanes() -> None:
    def run(mesh: Mesh) -> tuple[int, int, int]:
        return mesh.tensor.size, mesh.expert.size, mesh.attention.size

    assert set(run_ranks(Parallelism(tensor=2, expert=2), run)) == {(2, 2, 2)}
    assert set(run_ranks(Parallelism(tensor=2, expert=2, attention="tensor"), run)) == {(2, 2, 4)}
    assert set(run_ranks(Parallelism(expert=2), run)) == {(1, 2, 1)}


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_have_the_same_bits_on_all_ranks(size: int, dtype: torch.dtype) -> None:
    seed = int(torch.randint(1 << 30, ()))
    print(f"seed {seed}")
    parts = torch.randn(size, 40, 1153, generator=torch.Generator().manual_seed(seed)).to(dtype)

    def run(mesh: Mesh) -> list[torch.Tensor]:
        sums = []
        for rows in (1, 7, 40):
            x = parts[mesh.rank, :rows].clone()
            mesh.tensor.all_reduce(x)
            sums.append(x)
        return sums

    first, *others = run_ranks(Parallelism(tensor=size), run)
    for mine in others:
        assert all(torch.equal(a, b) for a, b in zip(first, mine, strict=True))
    alone, among, _ = first
    assert torch.equal(alone[0], among[0]) or among.nbytes > SMALL_BYTES
    torch.testing.assert_close(among.float(), parts[:, :7].float().sum(0), rtol=0.02, atol=0.05)


def test_a_rank_that_waits_in_vain_raises_when_its_patience_ends() -> None:
    lost: list[str] = []

    def run(mesh: Mesh) -> None:
        if mesh.rank:
            with pytest.raises(RankLost) as raised:
                mesh.tensor.all_reduce(torch.ones(1))
            lost.append(str(raised.value))

    run_ranks(Parallelism(tensor=2), run, patience=3)
    assert lost == ["all_reduce of ranks [0, 1]: another rank has not come in time"]


def test_abort_ends_a_call_under_way_and_all_groups_of_the_rank() -> None:
    def run(mesh: Mesh) -> None:
        if mesh.rank == 3:
            return
        threading.Timer(0.05, lambda: mesh.abort(RankLost("rank 3 is gone"))).start()
        with pytest.raises(RankLost, match="rank 3 is gone"):
            mesh.attention.all_gather(torch.ones(1), torch.ones(4, 1))
        with pytest.raises(RankLost, match="rank 3 is gone"):
            mesh.expert.all_reduce(torch.ones(1))

    run_ranks(Parallelism(tensor=2, expert=2, attention="tensor"), run)


def test_a_device_that_does_not_let_go_holds_nobody_up() -> None:
    let_go = threading.Event()

    class Stuck:
        def abort(self) -> None:
            let_go.wait()

    def run(mesh: Mesh) -> None:
        group = mesh.tensor
        assert isinstance(group, TorchGroup)
        replace(group, device=cast(dist.ProcessGroup, Stuck())).abort(RankLost("rank 1 is gone"))
        with pytest.raises(RankLost, match="rank 1 is gone"):
            group.all_reduce(torch.ones(1))

    run_ranks(Parallelism(tensor=2), run)
    let_go.set()


def test_a_rank_that_raises_ends_the_others() -> None:
    def run(mesh: Mesh) -> None:
        if mesh.rank == 1:
            raise ValueError("out of range")
        mesh.tensor.all_reduce(torch.ones(1))

    with pytest.raises(ValueError, match="out of range"):
        run_ranks(Parallelism(tensor=3), run)
