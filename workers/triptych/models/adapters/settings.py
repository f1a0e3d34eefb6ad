"""adapter_config.json, as PEFT's LoraConfig writes it (github.com/huggingface/peft, tuners/lora/config.py)."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from triptych.core.errors import InvalidArgument, Unimplemented
from triptych.models.config import read_json
from triptych.models.recipes.fields import Fields

SETTINGS: Final = "adapter_config.json"

_REFUSED: Final = (
    "use_dora", "use_qalora", "lora_bias", "modules_to_save", "trainable_token_indices", "target_parameters",
    "layer_replication", "alora_invocation_tokens", "arrow_config", "megatron_config", "fan_in_fan_out",
)  # fmt: skip
"""What would make other products than scale · (x · downᵀ) · up of the model's own linears."""
_NEUTRAL_STARTS: Final = (True, False, None, "gaussian", "eva", "orthogonal")
"""Ways to begin that leave the model's weights as they are; after the others an adapter fits changed weights only."""


@dataclass(frozen=True, slots=True)
class Modules:
    """Names of modules: endings from a dot on, or one regular expression for the whole name."""

    chosen: tuple[str, ...] | re.Pattern[str]

    def __contains__(self, module: str) -> bool:
        """Whether the module is one of them."""
        if isinstance(self.chosen, re.Pattern):
            return self.chosen.fullmatch(module) is not None
        return any(module == ending or module.endswith(f".{ending}") for ending in self.chosen)


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """What an adapter says about itself.

    Attributes:
        rank: Of modules that `ranks` does not name.
        alpha: Of modules that `alphas` does not name.
        ranks: By regular expressions for endings of names.
        alphas: By the same.
        divisor: alpha is divided by the rank, or by its root (rank-stabilised, arXiv:2312.03732).
        targets: The modules that have an adapter; "all-linear" for every one but the head.
        excluded: Those that have none all the same.
        layers: Layers that have one; None for all.
    """

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    divisor: Literal["rank", "root"]
    targets: Modules | Literal["all-linear"]
    excluded: Modules
    layers: frozenset[int] | None

    def adapts(self, module: str, layer: int) -> bool:
        """Whether a linear module of a layer has an adapter."""
        named = self.targets == "all-linear" or module in self.targets
        return named and module not in self.excluded and (self.layers is None or layer in self.layers)

    def rank_of(self, module: str) -> int:
        """The rank r of a module."""
        key = _first_match(self.ranks, module)
        return self.rank if key is None else self.ranks[key]

    def scale_of(self, module: str) -> float:
        """Factor of the product."""
        key, rank = _first_match(self.alphas, module), self.rank_of(module)
        alpha = self.alpha if key is None else self.alphas[key]
        return alpha / (rank if self.divisor == "rank" else math.sqrt(rank))


def read_settings(folder: Path) -> LoraSettings:
    """Reads the adapter_config.json of a folder.

    Raises:
        NotFound: there is none.
        DataLoss: it is not a JSON object.
        InvalidArgument: a field does not hold what it should.
        Unimplemented: an adapter of another kind, or with a part that is not served; the message names it.
    """
    path = folder / SETTINGS
    values = read_json(path)
    try:
        return _settings(Fields(values), values)
    except (InvalidArgument, Unimplemented) as error:
        raise type(error)(f"{path}: {error.message.removeprefix('config: ')}", field="adapters") from None


def _settings(fields: Fields, values: Mapping[str, Any]) -> LoraSettings:
    fields.choice("peft_type", "", ("LORA",))
    fields.choice("bias", "none", ("none",))
    for name in _REFUSED:
        if values.get(name):
            raise fields.unsupported(name, values[name], "none")
    if (start := values.get("init_lora_weights")) not in _NEUTRAL_STARTS:
        raise fields.unsupported("init_lora_weights", start, "true, gaussian, eva or orthogonal")
    ranks, alphas = fields.section("rank_pattern"), fields.section("alpha_pattern")
    return LoraSettings(
        rank=fields.count("r", 8),
        alpha=fields.positive("lora_alpha", 8),
        ranks={_pattern("rank_pattern", key): ranks.count(key, None) for key in values.get("rank_pattern") or {}},
        alphas={
            _pattern("alpha_pattern", key): alphas.positive(key, None) for key in values.get("alpha_pattern") or {}
        },
        divisor="root" if fields.flag("use_rslora", False) else "rank",
        targets=_targets(fields, values),
        excluded=_modules(fields, values, "exclude_modules"),
        layers=_layers(fields, values.get("layers_to_transform")),
    )


def _targets(fields: Fields, values: Mapping[str, Any]) -> Modules | Literal["all-linear"]:
    if values.get("target_modules") == "all-linear":
        return "all-linear"
    return _modules(fields, values, "target_modules")


def _modules(fields: Fields, values: Mapping[str, Any], name: str) -> Modules:
    given = values.get(name)
    return Modules(re.compile(_pattern(name, given)) if isinstance(given, str) else fields.texts(name, ()))


def _layers(fields: Fields, given: object) -> frozenset[int] | None:
    if given is None:
        return None
    return frozenset(
        [fields.integer("layers_to_transform", 0)]
        if isinstance(given, int)
        else fields.integers("layers_to_transform", ())
    )


def _pattern(field: str, text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise InvalidArgument(f"{field} {text!r:.60} is not a regular expression: {error}") from None
    return text


def _first_match(patterns: Iterable[str], module: str) -> str | None:
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), None)
