"""Settles the budget `auto` for the processes of this machine that are about to load a model."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

import torch

from triptych.core.errors import FailedPrecondition
from triptych.core.sizes import show_bytes
from triptych.engine.dtypes import choose_dtype
from triptych.engine.ranks.settings import RankSettings
from triptych.experts.fit import Everything, Need, Part, TooLittle, Verdict, choose_budget, free_memory
from triptych.experts.pool import LayerNeed
from triptych.experts.settings import Auto, Bytes, OffloadSettings
from triptych.models.config import read_config
from triptych.models.expert_sizes import element_bytes, expert_parameters, layer_needs
from triptych.models.quantization import choose_quantization
from triptych.models.size import parameters
from triptych.models.spec import DecoderSpec, read_spec

logger = logging.getLogger(__name__)


def settle(settings: RankSettings) -> RankSettings:
    """The same with a number in place of `auto`, or without an offload where everything fits; once for all ranks.

    Raises:
        FailedPrecondition: not even the experts of one layer fit.
    """
    if settings.offload is None or not isinstance(settings.offload.budget, Auto):
        return settings
    spec = read_spec(settings.files).decoder
    if not expert_parameters(spec):
        logger.info("%s has no experts: experts.budget auto means nothing", settings.files.name)
        return replace(settings, offload=None)
    dtype = choose_dtype(settings.dtype, read_config(settings.files), settings.device)
    form = choose_quantization(settings.quantization, settings.files)
    element = element_bytes(form, settings.files, spec, dtype.itemsize)
    verdict = choose_budget(_need(settings, spec, element), _free(settings.device))
    return replace(settings, offload=settled(settings.offload, verdict))


def settled(offload: OffloadSettings, verdict: Verdict) -> OffloadSettings | None:
    """What a budget of `auto` becomes.

    Raises:
        FailedPrecondition: not even the experts of one layer fit.
    """
    match verdict:
        case Everything():
            logger.info("experts.budget auto: all experts fit into memory")
            return None
        case Part(nbytes):
            logger.info("experts.budget auto: %s", show_bytes(nbytes))
            return replace(offload, budget=Bytes(nbytes))
        case TooLittle(missing):
            raise FailedPrecondition(
                f"experts.budget auto: the experts of one layer do not fit beside KV cache and other weights; "
                f"{show_bytes(missing)} of memory are missing. Lower kv_cache.memory or use fewer workers",
                field="experts.budget",
            )
        case _:
            assert_never(verdict)


def need_of_pools(layers: Sequence[LayerNeed]) -> tuple[int, int]:
    """Bytes of a rank's pool that has every expert of it, and of the smallest."""
    largest, most = max(layer.nbytes for layer in layers), max(layer.experts for layer in layers)
    return sum(layer.experts for layer in layers) * largest, most * largest


def _need(settings: RankSettings, spec: DecoderSpec, element: float) -> Need:
    """Of all ranks on this host; on GPUs, where nobody shares memory, of one."""
    compact = settings.offload is not None and settings.offload.twelve_bits(settings.device)
    pool, least = need_of_pools(layer_needs(spec, element, settings.parallelism, compact=compact))
    experts = expert_parameters(spec)
    others = round((parameters(spec) - experts) * element)
    if torch.device(settings.device).type == "cuda":
        return Need(others + settings.kv_memory, pool, pool, least)
    ranks = settings.parallelism.size
    return Need(others + ranks * settings.kv_memory, round(experts * element), pool, least, ranks)


def _free(device: str) -> int:
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory()
