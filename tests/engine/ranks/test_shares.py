"""What each rank is given: pools of equally many blocks, none larger than allowed."""

from dataclasses import replace

import pytest
import torch
import torch.distributed

from triptych.core.errors import FailedPrecondition, InvalidArgument, TriptychError
from triptych.engine import Engine
from triptych.engine.ranks.settings import RankSettings, Share, require_gpus
from triptych.models.resolve import resolve
from triptych.parallel import Mesh, Parallelism
from triptych.parallel.balance import BalancePolicy
from triptych.parallel.testing import run_threads

MEMORY = 10_000_000


def test_each_rank_has_a_gpu_of_its_own() -> None:
    settings = RankSettings(files=resolve("builtin:smollm2"), parallelism=Parallelism(2), kv_memory=1, adapters={})
    assert [settings.of_rank(rank).device for rank in (0, 1)] == ["cpu", "cpu"]
    assert [replace(settings, device="cuda").of_rank(rank).device for rank in (0, 1)] == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize(
    ("device", "gpus", "nccl", "error", "said"),
    [
        ("cuda:1", 4, True, InvalidArgument, "device must be cpu or cuda for 4 ranks"),
        ("cuda", 3, True, FailedPrecondition, "a GPU for each of 4 ranks, got 3"),
        ("cuda", 4, False, FailedPrecondition, "a torch with nccl for 4 ranks"),
    ],
    ids=["shared", "too-few", "no-nccl"],
)
def test_ranks_without_gpus_of_their_own_are_refused_before_any_is_started(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, nccl: bool, error: type[TriptychError], said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: nccl)
    with pytest.raises(error, match=said) as caught:
        Engine("builtin:smollm2-moe", device=device, tensor_parallel=2, expert_parallel=2)
    assert caught.value.field == "device"


def test_ranks_with_a_gpu_each_are_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    require_gpus("cuda", 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    require_gpus("cpu", 4)


def test_rows_of_ranks_must_divide_among_their_nodes() -> None:
    with pytest.raises(InvalidArgument, match="must divide expert_parallel, which is 4, got 3") as caught:
        RankSettings(
            files=resolve("builtin:smollm2-moe"), parallelism=Parallelism(expert=4), kv_memory=1, adapters={},
            balance=BalancePolicy(nodes=3),
        )  # fmt: skip
    assert caught.value.field == "expert_balance.nodes"


@pytest.mark.parametrize(("ranks", "kv_heads"), [(2, [2, 1]), (4, [1, 1, 1, 1])])
def test_pools_are_as_long_as_the_rank_with_the_most_heads_can_have(ranks: int, kv_heads: list[int]) -> None:
    """SmolLM2 has three KV heads: two ranks have unequal numbers, four have one each, and one is there twice."""
    parallelism = Parallelism(ranks)
    settings = RankSettings(
        files=resolve("builtin:smollm2"), parallelism=parallelism, dtype="float32", kv_memory=MEMORY, adapters={}
    )

    def shape(mesh: Mesh) -> tuple[int, ...]:
        share = Share.load(settings, mesh)
        assert share.pool().shape == share.kv_shape
        return share.kv_shape

    shapes = run_threads(parallelism, shape)
    largest = 30 * 2 * max(kv_heads) * 16 * 64 * 4  # layers, k and v, heads, tokens, dimensions, bytes
    assert shapes == tuple((30, MEMORY // largest, 2, heads, 16, 64) for heads in kv_heads)
