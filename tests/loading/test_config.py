"""One config dict from config.json and generation_config.json, or from GGUF metadata."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from triptych.core.errors import DataLoss, NotFound, Unimplemented
from triptych.core.sampling import SamplingParams
from triptych.models.config import read_config
from triptych.models.files import ModelFiles
from triptych.models.generation_config import read_sampling_defaults

Gguf = Callable[..., ModelFiles]


def json_model(tmp_path: Path, config: bytes, generation: bytes | None = None) -> ModelFiles:
    (tmp_path / "config.json").write_bytes(config)
    if generation is not None:
        (tmp_path / "generation_config.json").write_bytes(generation)
    return ModelFiles("m", tmp_path, "safetensors")


def test_the_generation_config_decides_where_answers_end(tmp_path: Path) -> None:
    files = json_model(tmp_path, b'{"eos_token_id": 1, "a": 2}', b'{"eos_token_id": [1, 7], "top_p": 0.9}')
    assert read_config(files) == {"eos_token_id": [1, 7], "a": 2}


def test_a_generation_config_without_an_end_changes_nothing(tmp_path: Path) -> None:
    assert read_config(json_model(tmp_path, b'{"eos_token_id": 1}', b'{"top_p": 1}')) == {"eos_token_id": 1}


@pytest.mark.parametrize(
    ("config", "ends"),
    [
        (b'{"eos_token_id": 1}', [1, 7]),
        (b'{"eos_token_id": [2, 7]}', [2, 7]),
        (b'{"text_config": {"eos_token_id": 3}}', [3, 7]),
        (b'{"eos_token_id": null, "text_config": {"eos_token_id": [3, 8]}}', [3, 8, 7]),
        (b"{}", [7]),
    ],
)
@pytest.mark.parametrize("old", [True, False])
def test_the_end_of_sequence_of_the_tokenizer_ends_answers_too(
    tmp_path: Path, config: bytes, ends: list[int], old: bool
) -> None:
    files = json_model(tmp_path, config)
    added = {"7": {"content": "<|im_end|>"}}
    settings = {"eos_token": "<|im_end|>"} | ({"added_tokens_decoder": added} if old else {})
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "tokenizer.json").write_text(
        '{"added_tokens": [{"id": 7, "content": "<|im_end|>"}], "model": broken}'
    )
    assert read_config(files)["eos_token_id"] == ends


@pytest.mark.parametrize("settings", [b'{"eos_token": null}', b'{"eos_token": {"content": "</s>"}}', b"{}"])
def test_a_tokenizer_without_a_known_end_changes_nothing(tmp_path: Path, settings: bytes) -> None:
    files = json_model(tmp_path, b'{"eos_token_id": 1}')
    (tmp_path / "tokenizer_config.json").write_bytes(settings)
    assert read_config(files) == {"eos_token_id": 1}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b'{"eos_token_id": 2, "transformers_version": "5"}', {}),
        (b'{"temperature": 0.6, "top_k": 20, "do_sample": true}', {"temperature": 0.6, "top_k": 20}),
        (b'{"min_p": 0.05, "repetition_penalty": 1.05}', {"min_p": 0.05, "repetition_penalty": 1.05}),
        (b'{"top_p": 0.95, "max_new_tokens": 64}', {"top_p": 0.95, "max_tokens": 64}),
        (b'{"do_sample": false, "temperature": 0.7, "top_p": null}', {"temperature": 0.0}),
    ],
)
def test_a_model_says_how_it_wants_to_be_sampled(tmp_path: Path, written: bytes, expected: dict[str, Any]) -> None:
    assert read_sampling_defaults(json_model(tmp_path, b"{}", written)) == SamplingParams(**expected)


def test_without_a_file_nothing_is_said(tmp_path: Path) -> None:
    assert read_sampling_defaults(json_model(tmp_path, b"{}")) == SamplingParams()


def test_a_sampling_parameter_that_none_can_honour_is_named_with_its_file(tmp_path: Path) -> None:
    said = r"generation_config\.json: sampling\.top_k must be a whole number in \[0, .*got -1"
    with pytest.raises(DataLoss, match=said):
        read_sampling_defaults(json_model(tmp_path, b"{}", b'{"top_k": -1}'))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (b'{\n "a": 1,\n "b" 2\n}', r"config\.json, line 3: Expecting ':' delimiter"),
        (b"", r"config\.json, line 1: Expecting value"),
        (b"[1]", r"config\.json must hold a JSON object, got list"),
        (b'{"a": "\xff"}', r"config\.json is not UTF-8 text \(byte 7\)"),
        (b"[" * 100_000, r"config\.json is nested too deeply"),
    ],
)
def test_broken_json_names_file_and_line(tmp_path: Path, config: bytes, said: str) -> None:
    with pytest.raises(DataLoss, match=said):
        read_config(json_model(tmp_path, config))


def test_a_broken_generation_config_is_named_too(tmp_path: Path) -> None:
    with pytest.raises(DataLoss, match=r"generation_config\.json, line 1"):
        read_config(json_model(tmp_path, b"{}", b"{"))


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"config\.json does not exist"):
        read_config(ModelFiles("m", tmp_path, "safetensors"))


def test_a_gguf_gives_the_config_of_its_model(llama_gguf: Gguf, rng: np.random.Generator) -> None:
    assert read_config(llama_gguf(rng)) == {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 48,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "max_position_embeddings": 128,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }


def test_an_own_head_and_an_own_end_of_turn_are_seen(llama_gguf: Gguf, rng: np.random.Generator) -> None:
    head = np.zeros((48, 64), dtype=np.float32)
    config = read_config(
        llama_gguf(rng, metadata={"tokenizer.ggml.eot_token_id": 9}, tensors={"output.weight": head})
    )
    assert config["tie_word_embeddings"] is False
    assert config["eos_token_id"] == [2, 9]


@pytest.mark.parametrize(
    ("texts", "metadata", "ends"),
    [
        ({9: "<end_of_turn>"}, {}, [2, 9]),
        ({2: "<|endoftext|>", 9: "<|end|>"}, {}, [2, 9]),
        ({2: "<|im_end|>", 9: "<|endoftext|>"}, {}, 2),
        ({2: "<|eot_id|>", 9: "<|eom_id|>"}, {}, [2, 9]),
        ({9: "<|im_end|>"}, {"tokenizer.ggml.eot_token_id": 2}, 2),
        ({40: "<|im_end|>"}, {}, 2),
    ],
)
def test_ends_of_turns_that_a_gguf_does_not_name_are_known_by_their_text(
    llama_gguf: Gguf, rng: np.random.Generator, texts: dict[int, str], metadata: dict[str, int], ends: int | list[int]
) -> None:
    files = llama_gguf(rng, metadata=metadata, texts=texts, normal=range(30, 48))
    assert read_config(files)["eos_token_id"] == ends


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_recovered_from_its_factors(
    llama_gguf: Gguf, rng: np.random.Generator, factor: float
) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(rope_parameters=rope, hidden_size=256, num_attention_heads=4, max_position_embeddings=131072)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 500000.0 ** -(torch.arange(0, 64, 2) / 64)
    files = llama_gguf(
        rng,
        metadata={"llama.rope.freq_base": 500000.0, "llama.attention.key_length": 64},
        tensors={"rope_freqs.weight": (plain / scaled).numpy().astype(np.float32)},
    )
    assert read_config(files)["rope_parameters"] == pytest.approx(rope)


def test_other_frequency_factors_are_refused(llama_gguf: Gguf, rng: np.random.Generator) -> None:
    factors = np.linspace(1, 3, 8, dtype=np.float32)
    with pytest.raises(Unimplemented, match=r"rope_freqs\.weight are not those of Llama 3"):
        read_config(llama_gguf(rng, tensors={"rope_freqs.weight": factors}))


@pytest.mark.parametrize(
    ("metadata", "kind", "said"),
    [
        ({"llama.block_count": None}, DataLoss, r"tiny\.gguf has no metadata llama\.block_count"),
        ({"llama.attention.head_count": 0}, DataLoss, r"llama\.attention\.head_count must be positive, got 0"),
        ({"llama.block_count": "many"}, Unimplemented, r"llama\.block_count must be one int, got 'many'"),
        ({"llama.expert_count": 8}, DataLoss, r"tiny\.gguf has no metadata llama\.expert_used_count"),
        ({"llama.rope.scaling.type": "spiral"}, Unimplemented, r"rope scaling 'spiral' is not read"),
        ({"llama.rope.scaling.type": "yarn"}, DataLoss, r"has no metadata llama\.rope\.scaling\.factor"),
        ({"split.count": 3}, Unimplemented, "is one of 3 parts; join them first with llama-gguf-split --merge"),
    ],
)
def test_metadata_that_cannot_be_served_is_named(
    llama_gguf: Gguf, rng: np.random.Generator, metadata: dict[str, object], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        read_config(llama_gguf(rng, metadata=metadata))


def test_another_architecture_is_named(llama_gguf: Gguf, rng: np.random.Generator) -> None:
    with pytest.raises(Unimplemented, match=r"tiny\.gguf holds the architecture 'mamba'; .* llama, qwen2, qwen3, "):
        read_config(llama_gguf(rng, architecture="mamba"))
