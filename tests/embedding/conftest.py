"""Tiny random embedding models with a tokenizer, as sentence-transformers saves them."""

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from triptych.models.files import ModelFiles

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *string.ascii_lowercase]
MAX_TOKENS = 24

Build = Callable[..., ModelFiles]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Saves a model; `pooling` as 1_Pooling/config.json, `dense` as sizes of linears, other files as given."""

    def make(
        pooling: dict[str, Any] | None = None,
        dense: tuple[int, ...] = (),
        normalise: bool = True,
        **settings: Any,
    ) -> ModelFiles:
        folder = tmp_path / "model"
        config = BertConfig(
            vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=40, initializer_range=0.3,
        )  # fmt: skip
        BertModel(config).save_pretrained(folder)
        _save_tokenizer(folder)
        kinds = [("Transformer", ""), ("Pooling", "1_Pooling")]
        _write(folder / "1_Pooling" / "config.json", pooling or {"pooling_mode_mean_tokens": True})
        width = 32
        for number, outputs in enumerate(dense, start=2):
            place = f"{number}_Dense"
            kinds.append(("Dense", place))
            _write(folder / place / "config.json", {"in_features": width, "out_features": outputs, "bias": True})
            tensors = {"linear.weight": torch.randn(outputs, width), "linear.bias": torch.randn(outputs)}
            save_file(tensors, folder / place / "model.safetensors")
            width = outputs
        kinds += [("Normalize", f"{len(kinds)}_Normalize")] if normalise else []
        modules = [
            {"idx": i, "name": str(i), "path": place, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, place) in enumerate(kinds)
        ]
        _write(folder / "modules.json", modules)
        _write(folder / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS, **settings})
        return ModelFiles("tiny", folder, "safetensors")

    return make


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def _save_tokenizer(folder: Path) -> None:
    """A word for each letter; limits of its own, which sentence-transformers' file overrules."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(folder)
