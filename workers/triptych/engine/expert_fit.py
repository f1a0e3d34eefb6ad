"""Settles the budget `auto` for the processes of this machine that are about to load a model."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final, assert_never

import torch

from triptych.core.errors import FailedPrecondition, TriptychError
from triptych.core.sizes import show_bytes
from triptych.engine.dtypes import choose_dtype
from triptych.engine.ranks.settings import RankSettings
from triptych.experts.fit import (
    Everything,
    Need,
    Part,
    Speeds,
    TooLittle,
    Verdict,
    choose_budget,
    disk_bandwidth,
    forecast,
    free_memory,
    scratch_file,
    work_of,
)
from triptych.experts.fit.disk import SCRATCH_BYTES
from triptych.experts.pool import LayerNeed
from triptych.experts.settings import Auto, Bytes, OffloadSettings
from triptych.kernels.native import team
from triptych.kernels.native.compile import NotAvailable
from triptych.kernels.native.probe import read_bandwidth
from triptych.models.cache import cache_directory
from triptych.models.config import read_config
from triptych.models.expert_sizes import WeightForm, expert_parameters, layer_needs, with_earlier_uses
from triptych.models.quantization import choose_quantization
from triptych.models.size import parameters, step_parameters
from triptych.models.spec import DecoderSpec, read_spec

logger = logging.getLogger(__name__)

_PROBED: Final = 128 << 20
"""Bytes of memory that are read to see how fast that goes: several times what caches hold."""


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
    weights = WeightForm.of(settings.files, spec, form, dtype)
    layers = layer_needs(spec, weights, settings.parallelism, compact=settings.offload.twelve_bits(settings.device))
    verdict = choose_budget(_need(settings, spec, weights, layers), _free(settings.device))
    offload = settled(settings.offload, verdict)
    if isinstance(verdict, Part) and settings.device == "cpu" and settings.parallelism.size == 1:
        _foretell(verdict.nbytes, settings, spec, weights, layers)
    return replace(settings, offload=offload)


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


def disk_speed(pack: Path | None, size: int, readers: int) -> float:
    """Bytes per second that so many readers get of blobs of `size` bytes; reads for half a second.

    Args:
        pack: The packed file; where there is none, a file of the cache directory is read that is removed again.
        size: Bytes.
        readers: Threads.

    Raises:
        ResourceExhausted, Unavailable: the disk of the cache directory cannot be measured.
    """
    with nullcontext(pack) if pack else scratch_file(cache_directory(), max(SCRATCH_BYTES, size)) as file:
        return disk_bandwidth(file, size, readers)


def _foretell(
    budget: int, settings: RankSettings, spec: DecoderSpec, form: WeightForm, needs: tuple[LayerNeed, ...]
) -> None:
    """Says what to expect of it, as `triptych models check` does, from what memory and disk are measured to do."""
    assert settings.offload is not None
    work = work_of(step_parameters(spec), form.element, needs, settings.offload.rounding)
    try:
        layers, pack = with_earlier_uses(needs, settings.files)
        memory = read_bandwidth(team.threads(), _PROBED)  # as many as there are: other engines may use the team
        disk = disk_speed(pack, max(layer.nbytes for layer in layers), settings.offload.readers)
    except (NotAvailable, TriptychError, OSError) as error:
        logger.info("experts.budget auto: tokens a second are not foretold: %s", error)
        return
    found = forecast(budget, settings.offload, layers, work, Speeds(memory, disk))
    logger.info(
        "experts.budget auto: about %.3g tokens/s of one request, which reading from %s limits; "
        "%.0f%% of the experts that it asks for are expected to be there",
        *(found.tokens_per_second, found.bound, 100 * found.hit_ratio),
    )


def _need(settings: RankSettings, spec: DecoderSpec, form: WeightForm, layers: Sequence[LayerNeed]) -> Need:
    """Of all ranks on this host; on GPUs, where nobody shares memory, of one."""
    pool, least = need_of_pools(layers)
    experts = expert_parameters(spec)
    others = round((parameters(spec) - experts) * form.element)
    if torch.device(settings.device).type == "cuda":
        return Need(others + settings.kv_memory, pool, pool, least)
    ranks = settings.parallelism.size
    return Need(others + ranks * settings.kv_memory, round(experts * form.element), pool, least, ranks)


def _free(device: str) -> int:
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_memory()
