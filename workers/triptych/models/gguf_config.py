"""A Hugging Face config dict from GGUF metadata (llama architecture)."""

from typing import Any, TypeVar

from triptych.core.errors import DataLoss, Unimplemented
from triptych.models.gguf_header import GgufHeader
from triptych.models.gguf_rope import rope_parameters

_Kind = TypeVar("_Kind", int, float, str)


def config_from_gguf(header: GgufHeader) -> dict[str, Any]:
    """Builds what config.json and generation_config.json would say.

    Raises:
        Unimplemented: an architecture other than llama, or a variant of it that is not read.
        DataLoss: metadata that the architecture needs is missing.
    """
    architecture = _need(header, "general.architecture", str)
    if architecture != "llama":
        raise Unimplemented(
            f"{header.path} holds the architecture {architecture!r}; from GGUF only 'llama' is read", field="model"
        )
    _refuse_variants(header)
    heads = _need(header, "llama.attention.head_count", int)
    hidden = _need(header, "llama.embedding_length", int)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": _vocabulary(header),
        "hidden_size": hidden,
        "intermediate_size": _need(header, "llama.feed_forward_length", int),
        "num_hidden_layers": _need(header, "llama.block_count", int),
        "num_attention_heads": heads,
        "num_key_value_heads": _get(header, "llama.attention.head_count_kv", int, heads),
        "head_dim": _get(header, "llama.attention.key_length", int, hidden // heads),
        "hidden_act": "silu",
        "rms_norm_eps": _need(header, "llama.attention.layer_norm_rms_epsilon", float),
        "rope_parameters": rope_parameters(header, _get(header, "llama.rope.freq_base", float, 10000.0)),
        "max_position_embeddings": _need(header, "llama.context_length", int),
        "attention_bias": "blk.0.attn_q.bias" in header.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in header.tensors,
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "bos_token_id": header.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": _ends(header),
        "pad_token_id": header.metadata.get("tokenizer.ggml.padding_token_id"),
    }


def _refuse_variants(header: GgufHeader) -> None:
    if experts := header.metadata.get("llama.expert_count"):
        raise Unimplemented(f"{header.path} has {experts} experts per layer; from GGUF only dense models are read")


def _vocabulary(header: GgufHeader) -> int:
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None:
        raise DataLoss(f"{header.path} has no tensor token_embd.weight")
    return embedding.shape[0]


def _ends(header: GgufHeader) -> int | list[int] | None:
    """The end of the text, and the end of a turn where a chat model has one of its own."""
    named = (header.metadata.get(f"tokenizer.ggml.{end}_token_id") for end in ("eos", "eot"))
    ends = list(dict.fromkeys(end for end in named if isinstance(end, int)))
    return ends if len(ends) > 1 else ends[0] if ends else None


def _need(header: GgufHeader, key: str, kind: type[_Kind]) -> _Kind:
    value = header.metadata.get(key)
    if value is None:
        raise DataLoss(f"{header.path} has no metadata {key}")
    if not isinstance(value, kind) or isinstance(value, bool):
        raise Unimplemented(f"{header.path}: metadata {key} must be one {kind.__name__}, got {value!r:.60}")
    if kind is not str and value <= 0:  # type: ignore[operator]
        raise DataLoss(f"{header.path}: metadata {key} must be positive, got {value}")
    return value


def _get(header: GgufHeader, key: str, kind: type[_Kind], default: _Kind) -> _Kind:
    return _need(header, key, kind) if key in header.metadata else default
