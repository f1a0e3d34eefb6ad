"""Text encoders: the rows of several texts in one batch, against transformers' hidden states of each text alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    DistilBertConfig,
    PretrainedConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from triptych.models.embedding.embedder import TextEmbedder
from triptych.models.embedding.reading import read_embedder
from triptych.models.files import ModelFiles

SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 96, "initializer_range": 0.2,
}  # fmt: skip
DISTIL: dict[str, Any] = {
    "vocab_size": 97, "dim": 64, "hidden_dim": 80, "n_layers": 3, "n_heads": 4, "max_position_embeddings": 96,
    "initializer_range": 0.2,
}  # fmt: skip
LENGTHS = (70, 1, 7, 33, 7, 2, 96, 7)

CONFIGS: dict[str, PretrainedConfig] = {
    "BertModel": BertConfig(**SIZES),
    "RobertaModel": RobertaConfig(
        **{**SIZES, "max_position_embeddings": 98}, type_vocab_size=1, hidden_act="gelu_new"
    ),
    "XLMRobertaModel": XLMRobertaConfig(**{**SIZES, "max_position_embeddings": 100}, pad_token_id=3),
    "DistilBertModel": DistilBertConfig(**DISTIL),
}


@pytest.mark.parametrize(
    "config", [pytest.param(c, id=name, marks=pytest.mark.family(name)) for name, c in CONFIGS.items()]
)
def test_rows_of_texts_of_many_lengths_are_those_of_transformers(
    config: PretrainedConfig, tmp_path: Path, compared: set[str]
) -> None:
    model: Any = AutoModel.from_config(config, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.train(False).save_pretrained(tmp_path)
    files = ModelFiles("tiny", tmp_path, "safetensors")
    ours = TextEmbedder.load(files, spec := read_embedder(files), torch.float32)
    assert spec.max_tokens == max(LENGTHS)
    texts = [torch.randint(4, 97, (length,)) for length in LENGTHS]
    with torch.inference_mode():
        rows = ours.encoder(torch.cat(texts), LENGTHS).split(LENGTHS)
        for found, text in zip(rows, texts, strict=True):
            expected = model(text.unsqueeze(0)).last_hidden_state[0]
            off = (found - expected).abs().amax(-1) / expected.abs().amax(-1)
            assert off.max() <= 1e-4
        expected = torch.stack([model(text.unsqueeze(0)).last_hidden_state[0].mean(0) for text in texts])
    torch.testing.assert_close(ours.embed([text.tolist() for text in texts]), expected, rtol=1e-4, atol=1e-4)
    compared.add(spec.encoder.architecture)
