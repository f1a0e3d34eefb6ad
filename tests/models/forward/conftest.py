"""Tiny random checkpoints written by transformers, and steps over a paged cache."""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, PreTrainedModel

from triptych.kernels import AttentionBatch
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.step import EmbeddingRows, StepInput

BLOCK_SIZE = 16
IMAGE_TOKEN = 90


@pytest.fixture(autouse=True)
def seed() -> int:
    """Fresh random inputs every run; the seed is printed with a failure."""
    value = secrets.randbits(32)
    print(f"seed {value}")
    torch.manual_seed(value)
    return value


@pytest.fixture
def llama_config() -> Callable[..., LlamaConfig]:
    """A tiny Llama with grouped queries."""

    def make(**changes: Any) -> LlamaConfig:
        sizes = {
            "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 256,
            "initializer_range": 0.2,
        }  # fmt: skip
        return LlamaConfig(**(sizes | changes))

    return make


@pytest.fixture
def llava_config(llama_config: Callable[..., LlamaConfig]) -> Callable[..., LlavaConfig]:
    """A tiny LLaVA: 18×18 pixels in patches of 5, the rest cut off, 9 patches."""

    def make(vision: dict[str, Any] | None = None, **changes: Any) -> LlavaConfig:
        sizes = {
            "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
            "image_size": 18, "patch_size": 5, "initializer_range": 0.2,
        }  # fmt: skip
        return LlavaConfig(
            vision_config=CLIPVisionConfig(**(sizes | (vision or {}))).to_dict(),
            text_config=llama_config().to_dict(),
            image_token_index=IMAGE_TOKEN,
            **changes,
        )

    return make


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., ModelFiles]:
    """Gives every parameter a random value, biases and norms included, and writes the checkpoint."""

    def save(model: PreTrainedModel, **options: Any) -> ModelFiles:
        model.train(False)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        model.save_pretrained(tmp_path, **options)
        return ModelFiles(name="tiny", path=tmp_path, format="safetensors")

    return save


@dataclass
class PagedSequence:
    """One sequence in a pool that is NaN wherever nothing was stored."""

    decoder: Decoder
    length: int = 0
    blocks: Tensor = field(init=False)
    kv: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.kv = torch.full(self.decoder.kv_shape(20, BLOCK_SIZE), torch.nan, dtype=self.decoder.dtype)
        self.blocks = torch.randperm(20)

    def feed(self, token_ids: Tensor, embeddings: Iterable[EmbeddingRows] = ()) -> Tensor:
        """Runs one chunk and returns the logits of all its rows."""
        positions = torch.arange(self.length, self.length + len(token_ids))
        self.length += len(token_ids)
        step = StepInput(
            token_ids=token_ids,
            positions=positions,
            slots=self.blocks[positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE,
            attention=AttentionBatch(
                query_start=torch.tensor([0, len(token_ids)], dtype=torch.int32),
                kv_lengths=torch.tensor([self.length], dtype=torch.int32),
                block_tables=self.blocks.int().unsqueeze(0),
            ),
            logit_rows=torch.arange(len(token_ids)),
            embeddings=tuple(embeddings),
        )
        return self.decoder.forward(step, self.kv)

    def feed_chunks(self, token_ids: Tensor, chunk: int, embeddings: Tensor | None = None, row: int = 0) -> Tensor:
        """Runs a prompt in chunks; `embeddings` [n, H] replace its rows from `row` on."""
        logits = []
        for start in range(0, len(token_ids), chunk):
            stop = min(start + chunk, len(token_ids))
            rows = []
            if embeddings is not None:
                first, last = max(start, row), min(stop, row + len(embeddings))
                if first < last:
                    rows.append(EmbeddingRows(first - start, embeddings[first - row : last - row]))
            logits.append(self.feed(token_ids[start:stop], rows))
        return torch.cat(logits)


@pytest.fixture
def paged() -> Callable[[Decoder], PagedSequence]:
    """A fresh cache for a decoder."""
    return PagedSequence
