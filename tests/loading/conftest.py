import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from triptych.models.files import ModelFiles, local_files
from triptych.models.resolve import resolve
from triptych.models.testing import RecordingProgress

HEADS, KV_HEADS, HIDDEN, FEED_FORWARD, LAYERS, VOCABULARY = 4, 2, 64, 96, 2, 48


@pytest.fixture
def progress() -> RecordingProgress:
    return RecordingProgress()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory of this test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TRIPTYCH_CACHE", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., ModelFiles]:
    """Writes a model folder: `folder({"model.safetensors": {name: tensor}})`."""

    def write(shards: Mapping[str, Mapping[str, torch.Tensor]], name: str = "model") -> ModelFiles:
        path = tmp_path / name
        path.mkdir()
        (path / "config.json").write_text("{}")
        for shard, tensors in shards.items():
            save_file(dict(tensors), path / shard, metadata={"format": "pt"})
        if "model.safetensors" not in shards:
            places = {tensor: shard for shard, tensors in shards.items() for tensor in tensors}
            (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        return local_files(name, path)

    return write


@pytest.fixture
def llama_gguf(tmp_path: Path) -> Callable[..., ModelFiles]:
    """Writes a tiny llama GGUF; keyword arguments override its metadata.

    `tensors` adds tensors, `texts` renames tokens; those that are not `normal` stand for no text.
    """

    def write(
        rng: np.random.Generator,
        kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
        *,
        metadata: Mapping[str, int | float | str | None] | None = None,
        tensors: Mapping[str, np.ndarray] | None = None,
        texts: Mapping[int, str] = MappingProxyType({}),
        normal: range = range(VOCABULARY),
        architecture: str = "llama",
    ) -> ModelFiles:
        path = tmp_path / "tiny.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        for key, value in (_METADATA | dict(metadata or {})).items():
            match value:
                case int():
                    writer.add_uint32(key, value)
                case float():
                    writer.add_float32(key, value)
                case str():
                    writer.add_string(key, value)
        writer.add_token_list([texts.get(n, f"t{n}") for n in range(VOCABULARY)])
        writer.add_token_types(
            [gguf.TokenType.NORMAL if n in normal else gguf.TokenType.CONTROL for n in range(VOCABULARY)]
        )
        for name, values in (_tensors(rng) | dict(tensors or {})).items():
            if values.ndim == 1:
                writer.add_tensor(name, values)
            else:
                writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return ModelFiles("tiny", path, "gguf")

    return write


_METADATA = {
    "llama.block_count": LAYERS,
    "llama.context_length": 128,
    "llama.embedding_length": HIDDEN,
    "llama.feed_forward_length": FEED_FORWARD,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": KV_HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}


def _tensors(rng: np.random.Generator) -> dict[str, np.ndarray]:
    key_rows = HIDDEN // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (VOCABULARY, HIDDEN), "output_norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (HIDDEN,),
            f"blk.{layer}.attn_q.weight": (HIDDEN, HIDDEN),
            f"blk.{layer}.attn_k.weight": (key_rows, HIDDEN),
            f"blk.{layer}.attn_v.weight": (key_rows, HIDDEN),
            f"blk.{layer}.attn_output.weight": (HIDDEN, HIDDEN),
            f"blk.{layer}.ffn_norm.weight": (HIDDEN,),
            f"blk.{layer}.ffn_gate.weight": (FEED_FORWARD, HIDDEN),
            f"blk.{layer}.ffn_up.weight": (FEED_FORWARD, HIDDEN),
            f"blk.{layer}.ffn_down.weight": (HIDDEN, FEED_FORWARD),
        }
    return {name: _values(rng, shape) for name, shape in shapes.items()}


def _values(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A vector around 1, or a matrix that keeps the size of what it multiplies, as training starts from them.

    Unscaled, matrices make attention scores of 300 and a softmax between two of them: roundings of the embeddings
    would come out 30 times as large, and now and then 1000 times.
    """
    values = rng.standard_normal(shape, dtype=np.float32)
    return 1 + 0.2 * values if len(shape) == 1 else values / shape[1] ** 0.5


@pytest.fixture(scope="session")
def smollm2() -> ModelFiles:
    """The real model, in the user's own cache."""
    return resolve("builtin:smollm2")


SIZES = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
WINDOW = {"sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"]}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 128}
LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "partial_rotary_factor": 0.5,
    "long_factor": [1.5, 2.5, 3.5, 4.5], "short_factor": [1.0, 1.25, 1.5, 1.75],
    "original_max_position_embeddings": 128,
}  # fmt: skip
SCALES = {
    "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.1,
}  # fmt: skip
TINY: Mapping[str, tuple[str, dict[str, Any]]] = {
    "LlamaForCausalLM": ("LlamaConfig", {"rope_parameters": LLAMA3}),
    "MixtralForCausalLM": ("MixtralConfig", {"num_local_experts": 3, "num_experts_per_tok": 2}),
    "Qwen2ForCausalLM": ("Qwen2Config", {"rope_parameters": YARN}),
    "Qwen3ForCausalLM": ("Qwen3Config", {"head_dim": 128, "tie_word_embeddings": True}),
    "Qwen2MoeForCausalLM": ("Qwen2MoeConfig", {**EXPERTS, "shared_expert_intermediate_size": 48}),
    "Qwen3MoeForCausalLM": ("Qwen3MoeConfig", {**EXPERTS, "head_dim": 32, "norm_topk_prob": True}),
    "Gemma2ForCausalLM": ("Gemma2Config", {**WINDOW, "head_dim": 32, "query_pre_attn_scalar": 32}),
    "Gemma3ForCausalLM": ("Gemma3TextConfig", {**WINDOW, "head_dim": 32, "query_pre_attn_scalar": 32}),
    "Phi3ForCausalLM": ("Phi3Config", {"rope_parameters": LONG, "original_max_position_embeddings": 128}),
    "GraniteForCausalLM": ("GraniteConfig", SCALES),
    "Olmo2ForCausalLM": ("Olmo2Config", {}),
    "Olmo3ForCausalLM": ("Olmo3Config", WINDOW),
    "SmolLM3ForCausalLM": ("SmolLM3Config", {}),
}


@pytest.fixture
def tiny_family(tmp_path: Path) -> Callable[..., tuple[ModelFiles, PreTrainedModel]]:
    """Builds a model of a class of transformers with random weights, norms included; keywords override its config."""

    def build(name: str, **changes: object) -> tuple[ModelFiles, PreTrainedModel]:
        folder, (config_class, settings) = tmp_path / name, TINY[name]
        config = getattr(transformers, config_class)(**(SIZES | settings | changes))
        model: PreTrainedModel = getattr(transformers, name)(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.3)
        model.save_pretrained(folder)
        alphabet = {token: n for n, token in enumerate(("<pad>", "<s>", "</s>", *sorted(ByteLevel.alphabet()), "ab"))}
        tokenizer = Tokenizer(BPE(vocab=alphabet, merges=[("a", "b")]))
        tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
        PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=tokenizer, **special
        ).save_pretrained(folder)
        return ModelFiles(name, folder, "safetensors"), model

    return build
