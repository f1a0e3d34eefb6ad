"""Runs the workloads on an offline engine; the lines that `triptych bench engine` prints."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from triptych.cli.bench.engine.ceiling import Cost, Rates, ceiling, kv_token_bytes
from triptych.cli.bench.engine.machine import Precision
from triptych.cli.bench.engine.memory import peak_bytes
from triptych.cli.bench.engine.workloads import REPEATS, WARM_UP_TOKENS, Decode, FreshPrompts, Prefill, Workload
from triptych.engine import Engine, SamplingParams
from triptych.engine.dtypes import choose_dtype, dtype_name
from triptych.models.config import read_config
from triptych.models.progress import SILENT, Progress
from triptych.models.resolve import resolve
from triptych.models.spec import read_spec

Line = dict[str, str | int | float]
"""One JSON object of the output."""

BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The engine under test.

    Attributes:
        model: A folder, a .gguf file, a hub id or builtin:NAME.
        dtype: auto, float32 or bfloat16.
        quantization: none, int8 or gguf.
        threads: Threads of the computation, and of the ceilings.
    """

    model: str
    dtype: str
    quantization: str
    threads: int


class Limits(Protocol):
    """Measures what the machine can do; `Machine` does."""

    def read_bandwidth(self) -> float:
        """Bytes per second."""

    def gemm_peak(self, precision: Precision) -> float:
        """Operations per second."""


def measure(
    settings: EngineSettings, work: Sequence[Workload], limits: Limits, progress: Progress = SILENT
) -> Iterator[Line]:
    """Loads the model, and gives one line as each figure is known: load, every workload, memory.

    A rate is the median of three after a warm-up. A ceiling is that of the mean of what the machine did right before
    and right after.

    Args:
        settings: The engine under test.
        work: What it does, one after the other; at least one.
        limits: Measured around each workload.
        progress: Hears of downloads and loads.

    Raises:
        TriptychError: the model cannot be found, read or run.
    """
    engine, seconds = _load(settings, work, progress)
    yield {"peer": "triptych", "what": "load", "seconds": round(seconds, 3)}
    cost, prompts = Cost.of(engine.core.decoder), FreshPrompts()
    _run(engine, Decode(1, work[0].prompt_tokens, WARM_UP_TOKENS), prompts)
    before = _rates(limits, engine, settings)
    for workload in work:
        rates = [_run(engine, workload, prompts) for _ in range(REPEATS)]
        after = _rates(limits, engine, settings)
        length = len(engine.text.text(prompts.take(1, workload.prompt_tokens)[0]).token_ids)
        yield _line(workload, statistics.median(rates), length, cost, _mean(before, after))
        before = after
    kv = engine.core.kv
    yield {
        "peer": "triptych",
        "what": "memory",
        "peak_bytes": peak_bytes(),
        "weights_bytes": cost.weights_bytes,
        "kv_bytes": kv.nbytes,
    }


def _load(settings: EngineSettings, work: Sequence[Workload], progress: Progress) -> tuple[Engine, float]:
    """The engine with room for twice the KV of the largest workload, and the seconds that it took."""
    begun = time.perf_counter()
    files = resolve(settings.model, progress=progress)
    item_bytes = choose_dtype(settings.dtype, read_config(files)).itemsize
    tokens = 2 * max(w.batch * (w.prompt_tokens + w.output_tokens + BLOCK_SIZE) for w in work)
    engine = Engine(
        settings.model,
        dtype=settings.dtype,
        quantization=settings.quantization,
        kv_cache_memory=tokens * kv_token_bytes(read_spec(files).decoder, item_bytes),
        block_size=BLOCK_SIZE,
        max_running=max(64, *(w.batch for w in work)),
        threads=settings.threads,
        progress=progress,
    )
    return engine, time.perf_counter() - begun


def _run(engine: Engine, workload: Workload, prompts: FreshPrompts) -> float:
    """Counted tokens per second of one repetition."""
    texts = prompts.take(workload.batch, workload.prompt_tokens)
    params = SamplingParams(temperature=0, repetition_penalty=1, max_tokens=workload.output_tokens, ignore_eos=True)
    begun = time.perf_counter()
    engine.generate(texts, params)
    return workload.counted / (time.perf_counter() - begun)


def _rates(limits: Limits, engine: Engine, settings: EngineSettings) -> Rates:
    dtype: Precision = "float32" if dtype_name(engine.core.decoder.dtype) == "float32" else "bfloat16"
    linear = linear_precision(dtype, settings.quantization)
    attention = limits.gemm_peak(dtype)
    return Rates(limits.read_bandwidth(), attention if linear == dtype else limits.gemm_peak(linear), attention)


def linear_precision(dtype: Precision, quantization: str) -> Precision:
    """What the projections multiply in: GGUF blocks are met by int8 activations, but in float32 they stay exact."""
    if quantization == "int8" or (quantization == "gguf" and dtype != "float32"):
        return "int8"
    return dtype


def _mean(a: Rates, b: Rates) -> Rates:
    return Rates((a.read + b.read) / 2, (a.linear + b.linear) / 2, (a.attention + b.attention) / 2)


def _line(workload: Workload, rate: float, prompt_tokens: int, cost: Cost, machine: Rates) -> Line:
    limit = ceiling(workload, prompt_tokens, cost, machine)
    found: Line = {
        "tok_s": round(rate, 1),
        "ceiling": round(limit, 1),
        "share": round(rate / limit, 3),
        "read_gb_s": round(machine.read / 1e9, 1),
        "gemm_gflop_s": round(machine.linear / 1e9, 1),
    }
    match workload:
        case Decode(batch):
            return {"peer": "triptych", "what": "decode", "batch": batch, **found}
        case Prefill(tokens):
            return {"peer": "triptych", "what": "prefill", "tokens": tokens, **found}
