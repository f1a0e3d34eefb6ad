"""Adapters beside quantised weights: their own factors stay plain numbers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType
from torch.nn.functional import cosine_similarity
from transformers import LlamaConfig, LlamaForCausalLM

from triptych.models.convert.gguf_file import add_entries, write_gguf
from triptych.models.convert.metadata import family_for, metadata_of, rope_tensors
from triptych.models.convert.tensors import targets_of
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.sources import SafetensorsSource
from triptych.models.spec import read_spec

Kinds = Mapping[str, Callable[[], Any]]


@pytest.fixture
def model(tmp_path: Path) -> LlamaForCausalLM:
    """A random Llama, saved."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.train(False)
    model.save_pretrained(tmp_path / "model")
    return model


def as_gguf(folder: Path, model: LlamaForCausalLM) -> ModelFiles:
    """The same model in blocks of eight bits."""
    config = model.config.to_dict() | {"architectures": ["LlamaForCausalLM"]}
    family, source = family_for(config), SafetensorsSource(folder / "model.safetensors")
    path, writer = folder / "model.gguf", gguf.GGUFWriter(None, family.name)
    add_entries(writer, {f"{family.name}.{key}": value for key, value in metadata_of(config, family).items()})
    add_entries(writer, {f"tokenizer.ggml.{name}_token_id": i for i, name in enumerate(("padding", "bos", "eos"))})
    writer.add_token_list([f"t{n}" for n in range(64)])
    targets = targets_of(source.shapes, family, config, GGMLQuantizationType.Q8_0)
    write_gguf(path, writer, targets, rope_tensors(config), source, lambda count: None)
    return ModelFiles("tiny", path, "gguf")


def test_blocks_in_the_order_of_llama_cpp_answer_as_the_same_numbers_in_that_of_transformers(
    model: LlamaForCausalLM, tmp_path: Path, kinds: Kinds, batch: Any
) -> None:
    folders = {kind: make().draw(model).save(tmp_path / kind) for kind, make in kinds.items()}
    files = as_gguf(tmp_path / "model", model)
    token_ids = torch.randint(64, (4, 40))
    plain, blocks = (
        batch(
            Decoder.load(files, read_spec(files), torch.float32, quantization=form, adapters=folders), ["", *folders]
        ).feed(token_ids)
        for form in ("none", "gguf")
    )
    assert ((plain - blocks).abs().amax(-1) / plain.abs().amax(-1)).max() <= 1e-4


def test_on_int8_weights_an_adapter_does_what_it_does_on_plain_ones(
    model: LlamaForCausalLM, tmp_path: Path, kinds: Kinds, batch: Any
) -> None:
    adapters = {kind: make().draw(model) for kind, make in kinds.items()}
    folders = {kind: adapter.save(tmp_path / kind) for kind, adapter in adapters.items()}
    files = ModelFiles("tiny", tmp_path / "model", "safetensors")
    decoder = Decoder.load(files, read_spec(files), torch.float32, quantization="int8", adapters=folders)
    token_ids = torch.randint(64, (1, 40))
    without = batch(decoder, [""]).feed(token_ids)
    for kind, adapter in adapters.items():
        found = batch(decoder, [kind]).feed(token_ids)
        with torch.no_grad():
            expected = adapter.merged(model)(token_ids).logits
        off, ignored = (1 - cosine_similarity(logits, expected, dim=-1).mean() for logits in (found, without))
        assert off < ignored / 3, f"{kind}: {off:.4f}, and without the adapter {ignored:.4f}"
