"""Mixtures of every family with their experts divided among ranks: the logits and the answer of one rank."""

import threading
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    GptOssConfig,
    GraniteMoeConfig,
    MixtralConfig,
    OlmoeConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from triptych.kernels import Weight, native
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.quantization import Quantization
from triptych.models.sharding.slices import Slice
from triptych.models.sharding.testing import divided_answer
from triptych.models.spec import read_spec
from triptych.models.testing import PagedSequence
from triptych.models.weights import Weights
from triptych.parallel import Mesh, Parallelism
from triptych.parallel.testing import run_threads

native.install()
PROMPT, ANSWER = 25, 32
CLEAR = 1e-3
SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 128, "initializer_range": 0.2,
    "rms_norm_eps": 1e-2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS: dict[str, PretrainedConfig] = {
    "mixtral": MixtralConfig(**SIZES, num_local_experts=6),
    "qwen2_moe": Qwen2MoeConfig(
        **SIZES, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=24, shared_expert_intermediate_size=40
    ),
    "qwen3_moe": Qwen3MoeConfig(**SIZES, num_experts=8, num_experts_per_tok=3, moe_intermediate_size=24),
    "olmoe": OlmoeConfig(**SIZES, num_experts=8, num_experts_per_tok=3),
    "granitemoe": GraniteMoeConfig(**SIZES, num_local_experts=6, residual_multiplier=0.4, logits_scaling=2.0),
    "gpt_oss": GptOssConfig(
        **SIZES, num_local_experts=7, num_experts_per_tok=3, head_dim=16, swiglu_limit=0.7,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
    ),
    "deepseek_v3": DeepseekV3Config(
        **SIZES, n_routed_experts=8, n_group=4, topk_group=2, num_experts_per_tok=3, moe_intermediate_size=24,
        n_shared_experts=2, first_k_dense_replace=1, kv_lora_rank=32, q_lora_rank=48, qk_rope_head_dim=16,
        qk_nope_head_dim=24, v_head_dim=20, routed_scaling_factor=1.7,
    ),
}  # fmt: skip
GRIDS = (
    (Parallelism(1, 2), Parallelism(1, 4, "tensor"), Parallelism(2, 2)),
    (Parallelism(1, 2, "tensor"), Parallelism(1, 4), Parallelism(2, 2, "tensor")),
)
"""Each family is tried on one row of them; `test_expert_parallel` tries every router on all."""


@dataclass(frozen=True)
class Model:
    """A random checkpoint, and the answer of one rank to a prompt that leaves no doubt."""

    load: Any
    prompt: Tensor
    logits: Tensor
    answer: list[int]

    @classmethod
    def random(cls, config: PretrainedConfig, folder: Path, quantization: Quantization = "none") -> "Model":
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in (each for each in model.parameters() if each.dim() == 1):
                parameter.add_(0.2 * torch.randn_like(parameter))
        model.save_pretrained(folder)
        files = ModelFiles("tiny", folder, "safetensors")
        load = partial(Decoder.load, files, read_spec(files), torch.float32, quantization=quantization)
        decoder = load()
        for _ in range(20):
            prompt = torch.randint(1, 97, (PROMPT,))
            logits, sequence = run(prompt, decoder)
            answer, clear = list[int](), True
            scores = sequence.feed(prompt[-1:])[0]
            while clear and len(answer) < ANSWER:
                answer.append(int(scores.argmax()))
                first, second = scores.topk(2).values
                clear = bool(first - second > CLEAR * scores.abs().max())
                scores = sequence.feed(torch.tensor(answer[-1:]))[0]
            if clear:
                return cls(load, prompt, logits, answer)
        raise AssertionError("no prompt of 20 has an answer that is clear")

    def require_same(self, grid: Parallelism) -> None:
        """Every rank of a grid finds the answer, and the logits are within 1e-5 of the largest."""
        logits, answers = divided_answer(
            grid, lambda mesh: self.load(mesh=mesh), partial(run, self.prompt), int(self.prompt[-1]), ANSWER
        )
        off = (logits - self.logits).abs().amax(-1) / self.logits.abs().amax(-1)
        assert off.max() <= 1e-5
        assert answers == [self.answer] * grid.size


def run(prompt: Tensor, decoder: Decoder) -> tuple[Tensor, PagedSequence]:
    sequence = PagedSequence(decoder)
    return sequence.feed(prompt[:-1]), sequence


@pytest.mark.parametrize(("name", "grids"), [*zip(CONFIGS, cycle(GRIDS), strict=False)])
def test_divided_experts_give_the_answer_of_one_rank(
    name: str, grids: tuple[Parallelism, ...], tmp_path: Path
) -> None:
    model = Model.random(CONFIGS[name], tmp_path)
    for grid in grids:
        model.require_same(grid)


def test_divided_int8_experts_give_the_answer_of_one_rank(tmp_path: Path) -> None:
    model = Model.random(CONFIGS["olmoe"], tmp_path, "int8")
    for grid in (Parallelism(1, 2), Parallelism(1, 4)):  # int8 rows of a divided matrix are rounded by other scales
        model.require_same(grid)


@pytest.mark.parametrize("name", ["deepseek_v3", "gpt_oss"])
def test_a_lane_without_sequences_keeps_up_with_the_others(name: str, tmp_path: Path) -> None:
    model = Model.random(CONFIGS[name], tmp_path)

    def one(mesh: Mesh) -> list[int]:
        decoder = model.load(mesh=mesh)
        if mesh.rank == 1:
            idle = PagedSequence(decoder)
            for _ in range(1 + ANSWER):
                idle.feed(torch.empty(0, dtype=torch.int64))
            return []
        _, sequence = run(model.prompt, decoder)
        tokens = [int(model.prompt[-1])]
        for _ in range(ANSWER):
            tokens.append(sequence.follow(tokens[-1]))
        return tokens[1:]

    assert run_threads(Parallelism(1, 2), one) == (model.answer, [])


def test_a_rank_reads_its_own_experts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model.random(CONFIGS["mixtral"], tmp_path)
    read: dict[int, set[str]] = defaultdict(set)
    matrix = Weights.matrix

    def watched(weights: Weights, name: str, cut: Slice | None = None) -> Weight:
        if ".experts." in name:
            read[threading.get_ident()].add(name.split(".experts.")[1].split(".")[0])
        return matrix(weights, name, cut)

    monkeypatch.setattr(Weights, "matrix", watched)

    def experts(mesh: Mesh) -> list[str]:
        read[threading.get_ident()] = set()  # a thread may have been another rank before
        model.load(mesh=mesh)
        return sorted(read[threading.get_ident()])

    assert run_threads(Parallelism(1, 4), experts) == (["0", "1"], ["2", "3"], ["4"], ["5"])
