"""What a model would take here: read from headers, and set against what this machine was just measured to do."""

import os
from collections.abc import Iterator
from itertools import groupby
from math import prod
from typing import Any

import psutil

from triptych.cli.bench.engine.machine import Machine
from triptych.cli.bench.engine.measure import linear_precision
from triptych.cli.models.checking import EmbeddingReport, Report, StageMemory
from triptych.cli.models.embedding import survey_embedder
from triptych.cli.models.forecasting import check_mixture
from triptych.config.load import make_spec
from triptych.config.resources import resolve_stages
from triptych.config.sections import KvCacheSpec
from triptych.config.spec import ClusterSpec
from triptych.controller.desired import PROCESS_BYTES, Blueprint
from triptych.core.fleet import Stage
from triptych.engine.dtypes import choose_dtype, dtype_name
from triptych.experts.fit import free_memory
from triptych.experts.settings import OffloadSettings
from triptych.models.config import read_config
from triptych.models.embedding.reading import read_either
from triptych.models.expert_sizes import WeightForm
from triptych.models.files import ModelFiles
from triptych.models.packed.settings import find_schemes
from triptych.models.parameters import require_whole
from triptych.models.progress import Progress
from triptych.models.quantization import Quantization, choose_quantization
from triptych.models.recipes.catalogue import FAMILIES
from triptych.models.resolve import resolve
from triptych.models.size import kv_elements, linear_parameters, parameters, step_parameters
from triptych.models.spec import AttentionSpec, EmbedderSpec, ModelSpec
from triptych.models.towers.layout import vision_tensors


def survey(
    model: str,
    dtype: str,
    quantization: str,
    layout: str,
    threads: int | None,
    offload: OffloadSettings,
    progress: Progress,
) -> Report | EmbeddingReport:
    """Reads headers and measures the machine for some seconds.

    Args:
        model: A folder, a .gguf file, a hub id or builtin:NAME.
        dtype: Of the computation.
        quantization: Of the language model's matrices.
        layout: Of the workers.
        threads: That measure; None for all there are.
        offload: How experts would be kept that do not all fit; the budget is to be found.
        progress: Told about downloads and measurements.

    Raises:
        TriptychError: the model cannot be found, or not be served; the message says why.
    """
    files = resolve(model, progress=progress)
    spec, form = read_either(files), choose_quantization(quantization, files)
    if isinstance(spec, EmbedderSpec):
        return survey_embedder(model, files, spec, dtype, quantization, threads, progress)
    require_whole(files, spec)
    config = read_config(files)
    chosen = choose_dtype(dtype, config)
    weights = WeightForm.of(files, spec.decoder, form, chosen)
    kv_bytes = kv_elements(spec.decoder) * chosen.itemsize
    vision_bytes = _vision_parameters(spec) * chosen.itemsize
    settings = make_spec({"model": model, "layout": layout, "dtype": dtype, "quantization": form})
    stages = tuple(_stages(settings, files, spec, weights, vision_bytes))
    machine_bytes = psutil.virtual_memory().total
    with Machine(threads or len(os.sched_getaffinity(0))) as machine, progress.task("Measuring this machine", None):
        read = machine.read_bandwidth()
        products = machine.gemm_peak(linear_precision("float32" if chosen.itemsize == 4 else "bfloat16", form))
    return Report(
        model=model,
        architecture=spec.architecture,
        takes=next((family.takes for family in FAMILIES if family.architecture == spec.architecture), ("text",)),
        context_length=spec.context_length,
        dtype=dtype_name(chosen),
        quantization=form,
        parameters=parameters(spec.decoder),
        step_parameters=round(step_parameters(spec.decoder)),
        weights_bytes=round(parameters(spec.decoder) * weights.element),
        vision_bytes=vision_bytes,
        kv_token_bytes=kv_bytes,
        stages=stages,
        available_bytes=free_memory(),
        fits_tokens=KvCacheSpec().memory_on(machine_bytes) // kv_bytes,
        decode_tokens_per_second=read / (step_parameters(spec.decoder) * weights.element),
        prefill_tokens_per_second=products / (2 * linear_parameters(spec.decoder)),
        notes=tuple(_notes(files, config, spec, form)),
        mixture=check_mixture(files, spec.decoder, weights, stages, offload, read),
    )


def _stages(
    settings: ClusterSpec, files: ModelFiles, spec: ModelSpec, form: WeightForm, vision_bytes: int
) -> Iterator[StageMemory]:
    """What each worker of a stage takes for itself."""
    cpu_count = len(os.sched_getaffinity(0))
    resources = resolve_stages(settings, "images" if spec.vision else "texts", cpu_count=cpu_count)
    total, whole = psutil.virtual_memory().total, dict.fromkeys(Stage)
    blueprint = Blueprint(settings, files, spec, resources, total, whole, form)
    for stage, workers in groupby(blueprint.workers(), key=lambda worker: worker.settings.role):
        alike = tuple(workers)
        own = alike[0].settings
        cache, tower = own.kv_cache_bytes if own.decodes else 0, vision_bytes if own.encodes else 0
        yield StageMemory(stage.value, len(alike), PROCESS_BYTES + cache + tower)


def _vision_parameters(spec: ModelSpec) -> int:
    """Elements of the vision tower and its projector."""
    return 0 if spec.vision is None else sum(map(prod, vision_tensors(spec.vision).values()))


def _notes(files: ModelFiles, config: dict[str, Any], spec: ModelSpec, form: Quantization) -> Iterator[str]:
    if files.format == "gguf" and form == "none":
        yield "its blocks are unpacked once into the cache; --quantization gguf multiplies by them as they are stored"
    if files.format == "safetensors" and find_schemes(config):
        yield "its packed weights are unpacked once into the cache; --quantization int8 takes a byte for each"
    if (kind := _stretch(config)) in ("dynamic", "longrope", "su"):
        limit = f"{spec.context_length:,} tokens"
        yield f"its rotary scaling {kind} depends on the length of the prompt beyond {limit}: served up to there"
    heads = {layer.attention.head_dim for layer in spec.decoder.layers if isinstance(layer.attention, AttentionSpec)}
    if any(width % 16 or width > 256 for width in heads):
        widths = ", ".join(map(str, sorted(heads)))
        yield f"heads of {widths} dimensions have no compiled attention: torch computes, and steps are not replayed"


def _stretch(config: dict[str, Any]) -> str:
    """The kind of rotary scaling, as the configuration has it."""
    for section in (config, config.get("text_config") or {}):
        for name in ("rope_parameters", "rope_scaling"):
            rope = section.get(name)
            if isinstance(rope, dict) and ("rope_type" in rope or "type" in rope):
                return str(rope.get("rope_type", rope.get("type")))
    return "default"
