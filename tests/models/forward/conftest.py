"""Tiny random checkpoints written by transformers, and steps over a paged cache."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, PreTrainedModel

from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.testing import PagedSequence

IMAGE_TOKEN = 90


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


@pytest.fixture
def paged() -> Callable[[Decoder], PagedSequence]:
    """A fresh cache for a decoder."""
    return PagedSequence
