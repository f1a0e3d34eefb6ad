"""What `triptych models check` says of a model that gives embeddings."""

import os

import psutil

from triptych.cli.bench.engine.machine import Machine
from triptych.cli.bench.engine.measure import linear_precision
from triptych.cli.models.checking import EmbeddingReport
from triptych.core.errors import FailedPrecondition
from triptych.engine.dtypes import dtype_name
from triptych.engine.embedder import embedder_dtype
from triptych.models.embedding.embedder import require_whole
from triptych.models.embedding.layout import linear_parameters, parameters
from triptych.models.files import ModelFiles
from triptych.models.progress import Progress
from triptych.models.spec import EmbedderSpec


def survey_embedder(
    model: str,
    files: ModelFiles,
    spec: EmbedderSpec,
    dtype: str,
    quantization: str,
    threads: int | None,
    progress: Progress,
) -> EmbeddingReport:
    """Reads headers and measures the machine for some seconds; arguments are those of `survey`.

    Raises:
        TriptychError: the model cannot be served; the message says why.
    """
    if quantization != "none":
        raise FailedPrecondition(
            f"quantization {quantization} is for models that generate; {model} gives embeddings: use none",
            field="quantization",
        )
    require_whole(files, spec)
    chosen = embedder_dtype(dtype, files)
    with Machine(threads or len(os.sched_getaffinity(0))) as machine, progress.task("Measuring this machine", None):
        products = machine.gemm_peak(linear_precision("float32" if chosen.itemsize == 4 else "bfloat16", "none"))
    return EmbeddingReport(
        model=model,
        architecture=spec.encoder.architecture,
        size=spec.size,
        pooling=spec.pooling,
        normalised=spec.normalise,
        max_tokens=spec.max_tokens,
        dtype=dtype_name(chosen),
        parameters=parameters(spec),
        weights_bytes=parameters(spec) * chosen.itemsize,
        available_bytes=psutil.virtual_memory().available,
        tokens_per_second=products / (2 * linear_parameters(spec)),
    )
