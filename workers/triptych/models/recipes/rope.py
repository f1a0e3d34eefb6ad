"""Rotary embedding of a config: `rope_parameters`, or `rope_scaling` and `rope_theta` before transformers 5."""

import math

from triptych.core.errors import InvalidArgument
from triptych.models.recipes.fields import Fields
from triptych.models.spec import (
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    RopeScaling,
    RopeSpec,
    YarnScaling,
)

KINDS = ("default", "linear", "dynamic", "llama3", "yarn", "longrope", "su")


def read_rope(fields: Fields, head_dim: int, *, theta: float = 10000.0) -> RopeSpec:
    """How queries and keys are turned.

    Args:
        fields: The config.
        head_dim: Width of a head.
        theta: The default base.

    Raises:
        InvalidArgument, Unimplemented: a field is impossible, or of a kind that is not known.
    """
    section = rope_section(fields)
    share = (section if section.has("partial_rotary_factor") else fields).positive("partial_rotary_factor", 1.0)
    dimensions = int(head_dim * share)
    if dimensions % 2 or not 0 < dimensions <= head_dim:
        raise InvalidArgument(
            f"config: partial_rotary_factor must turn an even share of {head_dim} dimensions, got {share:g}",
            field="partial_rotary_factor",
        )
    base = (section if section.has("rope_theta") else fields).positive("rope_theta", theta)
    return RopeSpec(base, dimensions, read_scaling(fields, section, dimensions))


def layer_rope(fields: Fields, head_dim: int, kind: str, *, theta: float) -> RopeSpec:
    """How the layers of one kind turn, of a model in which sliding layers turn differently.

    Configs before transformers 5 have one `rope_scaling`, for the layers that see all.

    Args:
        fields: The config.
        head_dim: Width of a head.
        kind: As `layer_types` has it.
        theta: The base of this kind where `rope_parameters` does not say it.
    """
    if fields.section("rope_parameters").has(kind):
        section = fields.section("rope_parameters").section(kind)
        base = section.positive("rope_theta", theta)
        return RopeSpec(base, head_dim, read_scaling(fields, section, head_dim))
    if kind == "full_attention":
        return read_rope(fields, head_dim, theta=theta)
    return RopeSpec(theta, head_dim)


def rope_section(fields: Fields) -> Fields:
    """The part of a config that says how heads turn."""
    return fields.section("rope_parameters" if fields.has("rope_parameters") else "rope_scaling")


def read_scaling(fields: Fields, section: Fields, dimensions: int) -> RopeScaling | None:
    """What was changed for longer contexts."""
    match _kind(section):
        case "linear":
            return LinearScaling(section.positive("factor", None))
        case "llama3":
            return _llama3(fields, section)
        case "yarn":
            return _yarn(fields, section)
        case "longrope" | "su":  # as it was called at first
            return _long(fields, section, dimensions)
        case _:
            # The frequencies of `dynamic` change beyond the trained context only, which is not served.
            return None


def context_length(fields: Fields, default: int = 2048) -> int:
    """The longest sequence that one set of frequencies serves.

    Those of `longrope` change at the context before the stretch; up to there the short ones hold. `yarn` that names
    the context before it serves `factor` times that, whether or not `max_position_embeddings` says so already.
    """
    context, section = fields.count("max_position_embeddings", default), rope_section(fields)
    match _kind(section):
        case "longrope" | "su":
            return min(context, _original(fields, section, context))
        case "yarn" if section.has("original_max_position_embeddings"):
            return max(context, round(section.positive("factor", 1.0) * _original(fields, section, context)))
        case _:
            return context


def _kind(section: Fields) -> str:
    return section.choice("rope_type" if section.has("rope_type") else "type", "default", KINDS)


def _original(fields: Fields, section: Fields, default: int) -> int:
    name = "original_max_position_embeddings"
    return (section if section.has(name) else fields).count(name, default)


def _llama3(fields: Fields, section: Fields) -> Llama3Scaling:
    low, high = section.positive("low_freq_factor", None), section.positive("high_freq_factor", None)
    if high <= low:
        raise InvalidArgument(
            f"config: high_freq_factor must be above low_freq_factor {low:g}, got {high:g}",
            field="high_freq_factor",
        )
    return Llama3Scaling(
        factor=section.positive("factor", None),
        low_frequency=low,
        high_frequency=high,
        original_context=section.count("original_max_position_embeddings", context_length(fields)),
    )


def _yarn(fields: Fields, section: Fields) -> YarnScaling:
    factor = section.positive("factor", None)
    return YarnScaling(
        factor=factor,
        beta_fast=section.positive("beta_fast", 32.0),
        beta_slow=section.positive("beta_slow", 1.0),
        original_context=_original(fields, section, fields.count("max_position_embeddings", 2048)),
        truncate=section.flag("truncate", True),
        attention_factor=_yarn_attention(section, factor),
    )


def _yarn_attention(section: Fields, factor: float) -> float:
    if section.has("attention_factor"):
        return section.positive("attention_factor", None)
    if section.has("mscale") and section.has("mscale_all_dim"):
        scales = (section.positive("mscale", None), section.positive("mscale_all_dim", None))
        return mscale(factor, scales[0]) / mscale(factor, scales[1])
    return mscale(factor, 1.0)


def mscale(factor: float, weight: float) -> float:
    """YaRN's temperature of a context stretched by `factor`."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _long(fields: Fields, section: Fields, dimensions: int) -> LongScaling:
    factors = section.numbers("short_factor", dimensions // 2)
    context = fields.count("max_position_embeddings", 2048)
    original = _original(fields, section, context)
    if section.has("attention_factor"):
        return LongScaling(factors, section.positive("attention_factor", None))
    stretch = section.positive("factor", context / original)
    return LongScaling(factors, math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0)
