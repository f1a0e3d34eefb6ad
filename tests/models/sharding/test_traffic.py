"""The bytes that ranks count in real steps are those of the formula in docs/parallelism.md."""

import threading
from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from triptych.kernels import Experts
from triptych.models.decoder import Decoder
from triptych.models.expert_exchange import Exchange
from triptych.models.expert_routes import Routes
from triptych.models.files import ModelFiles
from triptych.models.layer import Block
from triptych.models.sharding.traffic import RankStep, Routed, Sent
from triptych.models.spec import ModelSpec, MoeSpec, read_spec
from triptych.models.step import StepInput
from triptych.models.testing import PagedSequence
from triptych.models.workspace import Activations
from triptych.parallel import Mesh, Parallelism
from triptych.parallel.testing import run_threads
from triptych.parallel.traffic import SMALL_BYTES

SMALL = {
    "vocab_size": 203,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MIXTURE = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32}
LATENT = {"kv_lora_rank": 32, "q_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16}
GROUPS = {"n_routed_experts": 8, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 2, "topk_group": 1}
CONFIGS: dict[str, tuple[str, dict[str, int]]] = {
    "dense": ("llama", SMALL),
    "whole norms": ("olmoe", SMALL | MIXTURE),
    "shared experts": ("qwen2_moe", SMALL | MIXTURE | {"shared_expert_intermediate_size": 48}),
    "latent": ("deepseek_v3", SMALL | MIXTURE | LATENT | GROUPS | {"num_key_value_heads": 4}),
}
GRIDS = [
    Parallelism(tensor=2),
    Parallelism(tensor=4),
    Parallelism(expert=2),
    Parallelism(expert=4),
    Parallelism(expert=2, attention="tensor"),
    Parallelism(2, 2),
    Parallelism(2, 2, "tensor"),
    Parallelism(expert=2, payload="int8"),
    Parallelism(expert=2, payload="fp8"),
]


PROMPTS = [300, 7, 40, 1]
"""Rows of each lane."""


def named(grid: Parallelism) -> str:
    return f"tp{grid.tensor}-ep{grid.expert}-{grid.attention}-{grid.payload}"


@pytest.fixture(scope="module", params=CONFIGS)
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModelFiles, ModelSpec]:
    folder = tmp_path_factory.mktemp("tiny")
    kind, settings = CONFIGS[request.param]
    from_config: Any = AutoModelForCausalLM.from_config
    from_config(AutoConfig.for_model(kind, **settings)).save_pretrained(folder)
    files = ModelFiles("tiny", folder, "safetensors")
    return files, read_spec(files)


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[Tensor]]:
    """The counts [ranks, 2] of every exchange, by thread, in order."""
    found: dict[int, list[Tensor]] = defaultdict(list)
    call = Exchange.__call__

    def watched(exchange: Exchange, x: Tensor, routes: Routes, experts: Experts) -> Tensor:
        found[threading.get_ident()].append(routes.counts)
        return call(exchange, x, routes, experts)

    monkeypatch.setattr(Exchange, "__call__", watched)
    return found


@pytest.mark.parametrize("grid", GRIDS, ids=named)
def test_counted_bytes_are_those_of_the_formula(
    checkpoint: tuple[ModelFiles, ModelSpec], grid: Parallelism, routes: dict[int, list[Tensor]]
) -> None:
    files, spec = checkpoint
    mixtures = sum(isinstance(layer.mlp, MoeSpec) for layer in spec.decoder.layers) if grid.expert > 1 else 0

    def run(mesh: Mesh) -> tuple[Sent, Sent, list[Tensor]]:
        sequence = PagedSequence(Decoder.load(files, spec, torch.float32, mesh=mesh))
        start = sent(mesh)
        sequence.feed(torch.randint(1, 203, (PROMPTS[grid.lane(mesh.rank)],)))
        between = sent(mesh)
        sequence.follow(3)
        return minus(between, start), minus(sent(mesh), between), routes[threading.get_ident()]

    results = run_threads(grid, run)
    counts = [theirs for _, _, theirs in results]
    for rank, (prompt, token, _) in enumerate(results):
        routed = [routed_by(grid, rank, [theirs[i] for theirs in counts]) for i in range(2 * mixtures)]
        rows = PROMPTS[grid.lane(rank)]
        assert prompt == RankStep(spec.decoder, torch.float32, grid, rank, rows).total(0, routed[:mixtures])
        assert token == RankStep(spec.decoder, torch.float32, grid, rank, 1).total(1, routed[mixtures:])


@pytest.mark.parametrize("checkpoint", ["latent"], indirect=True)
def test_counted_bytes_of_each_layer_are_those_of_the_formula(
    checkpoint: tuple[ModelFiles, ModelSpec], routes: dict[int, list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first layer is dense, the second has experts, a shared one too."""
    files, spec = checkpoint
    grid = Parallelism(2, 2)
    meshes, blocks = dict[int, Mesh](), dict[int, list[Sent]]()
    run_block = Block._run

    def watched(block: Block, step: StepInput, acts: Activations, kv: Tensor) -> None:
        thread = threading.get_ident()
        before = sent(meshes[thread])
        run_block(block, step, acts, kv)
        blocks[thread].append(minus(sent(meshes[thread]), before))

    monkeypatch.setattr(Block, "_run", watched)

    def run(mesh: Mesh) -> tuple[list[Sent], Tensor]:
        thread = threading.get_ident()
        meshes[thread], blocks[thread] = mesh, []
        sequence = PagedSequence(Decoder.load(files, spec, torch.float32, mesh=mesh))
        sequence.feed(torch.randint(1, 203, (PROMPTS[grid.lane(mesh.rank)],)))
        return blocks[thread], routes[thread][0]

    results = run_threads(grid, run)
    counts = [theirs for _, theirs in results]
    dense, mixture = spec.decoder.layers
    assert isinstance(mixture.mlp, MoeSpec)
    for rank, (found, _) in enumerate(results):
        step = RankStep(spec.decoder, torch.float32, grid, rank, PROMPTS[grid.lane(rank)])
        experts = step.experts(mixture.mlp, routed_by(grid, rank, counts))
        summed = step.embedding()  # a sum of all rows, like a dense block's
        assert found == [step.attention(dense.attention), summed, step.attention(mixture.attention), experts]


def sent(mesh: Mesh) -> Sent:
    groups = (mesh.tensor, mesh.expert, mesh.attention)
    return Sent(*(group.traffic.total_bytes for group in groups))


def minus(late: Sent, early: Sent) -> Sent:
    return Sent(late.tensor - early.tensor, late.expert - early.expert, late.attention - early.attention)


def routed_by(grid: Parallelism, rank: int, counts: list[Tensor]) -> Routed:
    """From what every rank has sent in one exchange: counts [ranks, 2] of records there, and results back."""
    members = grid.expert_ranks(rank)
    own = members.index(rank)
    others = [member for member in members if member != rank]
    return Routed(
        records=int(sum(counts[rank][members.index(other), 0] for other in others)),
        results=int(sum(counts[other][own, 1] for other in others)),
    )


def test_prompts_are_summed_up_both_ways() -> None:
    row = SMALL["hidden_size"] * 4
    assert PROMPTS[1] * row < SMALL_BYTES < PROMPTS[0] * row
