"""What the metadata of a GGUF say, from a Hugging Face config: the way back of `gguf_config` and `gguf_rope`."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from triptych.core.errors import InvalidArgument, Unimplemented
from triptych.models.gguf_families import FAMILIES, default_layer_types
from triptych.models.gguf_family import COMMON, Family
from triptych.models.gguf_rope import YARN, llama3_factors

Entry = int | float | str | bool | list[bool]


def family_for(config: Mapping[str, Any]) -> Family:
    """The family that a config.json belongs to.

    Raises:
        Unimplemented: to none that GGUF files are written of; the message names those.
    """
    name = next(iter(config.get("architectures") or ()), None)
    family = next((family for family in FAMILIES if family.architecture == name), None)
    if family is None:
        raise Unimplemented(
            f"a GGUF file of the architecture {name} is not written; "
            f"these are: {', '.join(family.architecture for family in FAMILIES)}",
            field="architectures",
        )
    return family


def head_dim(config: Mapping[str, Any]) -> int:
    """Width of a head."""
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def metadata_of(config: Mapping[str, Any], family: Family) -> dict[str, Entry]:
    """Metadata of the model's own, keys without the architecture.

    Args:
        config: With every field, as transformers completes it.
        family: That it belongs to.

    Raises:
        InvalidArgument: a field has no number where one must be.
        Unimplemented: a kind of rotary scaling that GGUF files do not have.
    """
    entries: dict[str, Entry] = {"vocab_size": config["vocab_size"]}
    for number in (*COMMON, *family.numbers):
        value = config.get(number.name, config.get(number.alias))
        if value is not None:
            entries[number.key] = number.kind(value)
        elif number.required:
            raise InvalidArgument(f"config: {number.name} must be a number, got None", field=number.name)
        elif number.none is not None:
            entries[number.key] = number.none
    width = head_dim(config)
    entries |= {
        "attention.head_count_kv": config.get("num_key_value_heads") or config["num_attention_heads"],
        "attention.key_length": width,
        "attention.value_length": width,
    }
    return entries | _layer_types(config, family) | _rope(config, width)


def rope_tensors(config: Mapping[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
    """Rotary factors that a GGUF keeps as tensors."""
    rope = _full_rope(config)
    match rope.get("rope_type"):
        case "llama3":
            turned = int(head_dim(config) * rope.get("partial_rotary_factor", 1.0))
            factors: Iterable[float] = llama3_factors(turned, rope["rope_theta"], rope["factor"])
            return {"rope_freqs.weight": np.asarray(factors, dtype=np.float32)}
        case "longrope":
            sides = ("long", "short")
            return {f"rope_factors_{n}.weight": np.asarray(rope[f"{n}_factor"], dtype=np.float32) for n in sides}
        case _:
            return {}


def _full_rope(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """That of layers that see everything, where layers differ."""
    rope: Mapping[str, Any] = config["rope_parameters"]
    full: Mapping[str, Any] = rope.get("full_attention", rope)
    return full


def _rope(config: Mapping[str, Any], width: int) -> dict[str, Entry]:
    rope = _full_rope(config)
    entries: dict[str, Entry] = {
        "rope.freq_base": float(rope["rope_theta"]),
        "rope.dimension_count": int(width * rope.get("partial_rotary_factor", 1.0)),
    }
    if sliding := config["rope_parameters"].get("sliding_attention"):
        entries["rope.freq_base_swa"] = float(sliding["rope_theta"])
    match kind := rope.get("rope_type", "default"):
        case "default" | "llama3":
            return entries
        case "linear":
            return entries | {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
        case "yarn":
            known = {f"rope.scaling.{key}": rope.get(name) for name, key in YARN}
            return entries | {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": float(rope["factor"]),
                "rope.scaling.original_context_length": int(rope["original_max_position_embeddings"]),
                **{key: float(value) for key, value in known.items() if value is not None},
            }
        case "longrope":
            original = rope.get("original_max_position_embeddings") or config["original_max_position_embeddings"]
            return entries | {"rope.scaling.original_context_length": int(original)}
        case _:
            raise Unimplemented(
                f"config: rope_type {kind!r:.40} cannot be written to GGUF; default, linear, llama3, longrope and "
                "yarn can",
                field="rope_parameters.rope_type",
            )


def _layer_types(config: Mapping[str, Any], family: Family) -> dict[str, Entry]:
    """Said only where llama.cpp would take another order."""
    types = config.get("layer_types")
    default = default_layer_types(family, config["num_hidden_layers"])
    if types is None or default is None or list(types) == default:
        return {}
    return {"attention.sliding_window_pattern": [kind == "sliding_attention" for kind in types]}
