"""What tells one family of GGUF files from another, as a type; the families are `gguf_families`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from triptych.models.gguf_metadata import Metadata

WHOLE: Mapping[str, str] = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
"""Tensors outside the layers: llama.cpp's name, and that of a Hugging Face checkpoint."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number that config.json and the metadata both have.

    Attributes:
        name: In config.json.
        key: In the metadata, without the architecture.
        kind: int or float.
        required: A file without it cannot be read; otherwise config.json is silent too, as where the file says 0.
        alias: Another name of it in config.json.
        none: What a file is to say where config.json has none; None leaves it out.
    """

    name: str
    key: str
    kind: type[int] | type[float]
    required: bool = True
    alias: str = ""
    none: int | None = None


COMMON: tuple[Number, ...] = (
    Number("hidden_size", "embedding_length", int),
    Number("intermediate_size", "feed_forward_length", int),
    Number("num_hidden_layers", "block_count", int),
    Number("num_attention_heads", "attention.head_count", int),
    Number("rms_norm_eps", "attention.layer_norm_rms_epsilon", float),
    Number("max_position_embeddings", "context_length", int),
)
"""What every family has."""

Derive = Callable[[dict[str, Any], Metadata], dict[str, Any]]
"""Fields of config.json that follow from the others and from the metadata."""


def _nothing(config: dict[str, Any], metadata: Metadata) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture of llama.cpp.

    Attributes:
        name: llama.cpp's name of it, `general.architecture`.
        architecture: The class that config.json names.
        model_type: As config.json has it.
        tensors: Of a layer, from llama.cpp's names to a checkpoint's, both without .weight or .bias.
        experts: Stacks of matrices, one for each expert, {} being its number in the checkpoint's name.
        numbers: Beyond `COMMON`.
        constants: Of config.json.
        derive: What is left of config.json.
        interleaved: llama.cpp rotates neighbours, where Hugging Face rotates pairs half a head apart: its conversion
            interleaved the two halves of each head of q and k.
        shifted_norms: Weights of norms are stored as 1 + w.
    """

    name: str
    architecture: str
    model_type: str
    tensors: Mapping[str, str]
    experts: Mapping[str, str] = field(default_factory=dict)
    numbers: tuple[Number, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)
    derive: Derive = _nothing
    interleaved: bool = False
    shifted_norms: bool = False
