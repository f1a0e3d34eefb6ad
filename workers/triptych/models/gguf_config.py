"""A Hugging Face config dict from GGUF metadata."""

from collections.abc import Collection, Mapping
from typing import Any

from triptych.core.errors import DataLoss
from triptych.models.gguf_families import family_of
from triptych.models.gguf_family import COMMON
from triptych.models.gguf_header import GgufHeader, find_strings
from triptych.models.gguf_metadata import Metadata
from triptych.models.gguf_rope import rope_parameters

_ENDS: Mapping[str, tuple[str, ...]] = {
    "eot": ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<EOT>", "<|end_of_text|>"),
    "eom": ("<|eom_id|>",),
}
"""Texts of the tokens that end a turn or a message, in the order in which llama.cpp looks for them."""
_NORMAL = 1  # type of a token that text is spelled with


def config_from_gguf(header: GgufHeader) -> dict[str, Any]:
    """Builds what config.json and generation_config.json would say.

    Raises:
        Unimplemented: an architecture, or a variant of one, that is not read.
        DataLoss: metadata that the architecture needs is missing.
    """
    metadata = Metadata(header)
    family = family_of(metadata)
    heads, hidden = metadata.need("attention.head_count", int), metadata.need("embedding_length", int)
    head_dim = metadata.get("attention.key_length", int, hidden // heads)
    config: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": _vocabulary(header),
        "num_key_value_heads": metadata.get("attention.head_count_kv", int, heads),
        "head_dim": head_dim,
        "rope_parameters": rope_parameters(metadata, head_dim),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "bos_token_id": metadata.token("bos"),
        "eos_token_id": _ends(metadata),
        "pad_token_id": metadata.token("padding"),
        **family.constants,
    }
    for number in (*COMMON, *family.numbers):
        if number.required or metadata.raw(number.key):
            config[number.name] = metadata.need(number.key, number.kind)
    return config | family.derive(config, metadata)


def _vocabulary(header: GgufHeader) -> int:
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None:
        raise DataLoss(f"{header.path} has no tensor token_embd.weight")
    return embedding.shape[0]


def _ends(metadata: Metadata) -> int | list[int] | None:
    """The end of the text, and the ends of turn and message where a chat model has them.

    Most files name the first only: llama.cpp knows the others by their text (llama-vocab.cpp).
    """
    named = {end: metadata.token(end) for end in ("eos", *_ENDS)}
    if None in named.values():
        spelled = _special_tokens(metadata.header, {text for texts in _ENDS.values() for text in texts})
        for end, texts in _ENDS.items():
            if named[end] is None:
                named[end] = next((spelled[text] for text in texts if text in spelled), None)
    ends = list(dict.fromkeys(end for end in named.values() if end is not None))
    return ends if len(ends) > 1 else ends[0] if ends else None


def _special_tokens(header: GgufHeader, texts: Collection[str]) -> dict[str, int]:
    """Numbers of those tokens that stand for no text."""
    types = header.metadata.get("tokenizer.ggml.token_type")
    found = find_strings(header, "tokenizer.ggml.tokens", texts)
    if not isinstance(types, tuple):
        return {}
    return {text: number for text, number in found.items() if number < len(types) and types[number] != _NORMAL}
