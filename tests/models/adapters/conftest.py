"""Random adapters of random models: a folder as PEFT saves it, and the same sums in transformers' weights."""

import copy
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from triptych.kernels import AttentionBatch
from triptych.models.decoder import Decoder
from triptych.models.step import StepInput
from triptych.models.testing import save_adapter

BLOCK_SIZE = 16
BLOCKS = 16


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))


@dataclass(frozen=True)
class RandomAdapter:
    """An adapter of every linear whose name matches.

    Attributes:
        settings: Of adapter_config.json, besides the kind.
        linears: A regular expression for the names of modules.
        factors: [r, I] and [O, r] by module, in float32.
        scales: Of the product, by module.
    """

    settings: Mapping[str, Any]
    linears: str
    ranks: Callable[[str], int]
    alphas: Callable[[str], float]
    factors: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def draw(self, model: nn.Module) -> "RandomAdapter":
        """Fills the factors."""
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and re.fullmatch(self.linears, name):
                rank = self.ranks(name)
                down, up = torch.randn(rank, module.in_features), torch.randn(module.out_features, rank)
                self.factors[name] = down.mul_(0.3), up.mul_(0.2)
        assert self.factors
        return self

    def save(self, folder: Path) -> Path:
        """Writes the folder."""
        return save_adapter(folder, self.factors, **self.settings)

    def merged(self, model: nn.Module) -> nn.Module:
        """A copy of the model with the products in its weights."""
        merged = copy.deepcopy(model)
        with torch.no_grad():
            for name, (down, up) in self.factors.items():
                rank = len(down)
                root = math.sqrt(rank) if self.settings.get("use_rslora") else rank
                linear = merged.get_submodule(name)
                assert isinstance(linear, nn.Linear)
                linear.weight += self.alphas(name) / root * (up @ down)
        return merged


def attention(rank: int = 4) -> RandomAdapter:
    """Of attention, by names of modules."""
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj"]
    return RandomAdapter(
        {"r": rank, "lora_alpha": 8, "target_modules": names},
        rf".*\.({'|'.join(names)})",
        lambda name: rank,
        lambda name: 8.0,
    )


def everything() -> RandomAdapter:
    """Of all linears, with ranks and factors of their own in some, stabilised."""
    settings = {
        "r": 7, "lora_alpha": 5, "use_rslora": True, "target_modules": "all-linear",
        "exclude_modules": ["shared_expert_gate"], "alpha_pattern": {"o_proj": 2.5},
        "rank_pattern": {"down_proj": 3, "layers.1.self_attn.o_proj": 18},
    }  # fmt: skip
    return RandomAdapter(
        settings,
        r"model\..*(?<!shared_expert_gate)",
        lambda name: 3 if name.endswith("down_proj") else 18 if name.endswith("1.self_attn.o_proj") else 7,
        lambda name: 2.5 if name.endswith("o_proj") else 5.0,
    )


def one_layer() -> RandomAdapter:
    """Of the feed-forward block of one layer, by a regular expression."""
    return RandomAdapter(
        {
            "r": 16, "lora_alpha": 16, "target_modules": r".*\.mlp\.(gate|up|down|gate_up)_proj",
            "layers_to_transform": [1], "exclude_modules": ["up_proj"],
        },
        r"model\.layers\.1\.mlp\.(gate|down|gate_up)_proj",
        lambda name: 16,
        lambda name: 16.0,
    )  # fmt: skip


@pytest.fixture
def kinds() -> Mapping[str, Callable[[], RandomAdapter]]:
    """The three of them."""
    return {"attention": attention, "everything": everything, "one layer": one_layer}


@dataclass
class Batch:
    """Sequences that take their steps together, each with its adapter; pages are NaN where nothing was stored.

    Attributes:
        decoder: The model.
        adapters: Of each sequence; "" for none.
    """

    decoder: Decoder
    adapters: list[str]
    length: int = 0
    kv: Tensor = field(init=False)

    def __post_init__(self) -> None:
        shape = self.decoder.kv_shape(BLOCKS * len(self.adapters), BLOCK_SIZE)
        self.kv = torch.full(shape, torch.nan, dtype=self.decoder.dtype)
        self.tables = torch.randperm(BLOCKS * len(self.adapters)).view(len(self.adapters), BLOCKS)

    def feed(self, token_ids: Tensor) -> Tensor:
        """Runs [sequences, n] further tokens; returns the logits of all of them, [sequences, n, V]."""
        sequences, count = token_ids.shape
        positions = torch.arange(self.length, self.length + count)
        self.length += count
        slots = self.tables[:, positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
        rows = sequences * count
        numbers = {name: number for number, name in enumerate(self.decoder.adapters)} | {"": -1}
        chosen = torch.tensor([numbers[name] for name in self.adapters], dtype=torch.int32)
        step = StepInput(
            token_ids.reshape(-1),
            positions.repeat(sequences),
            slots.reshape(-1),
            AttentionBatch(
                torch.arange(sequences + 1, dtype=torch.int32) * count,
                torch.full((sequences,), self.length, dtype=torch.int32),
                self.tables.int(),
            ),
            torch.arange(rows),
            adapters=chosen.repeat_interleave(count) if any(self.adapters) else None,
        )
        return self.decoder.forward(step, self.kv).view(sequences, count, -1)


@pytest.fixture
def batch() -> type[Batch]:
    return Batch
