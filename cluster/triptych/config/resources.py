"""How many workers of each stage there will be, and what each may use: the settings with every `auto` decided."""

from dataclasses import dataclass

from triptych.config.layout import Layout, Serves, resolve_layout
from triptych.config.sections import StageSpec
from triptych.config.spec import ClusterSpec
from triptych.core.fleet import Stage


@dataclass(frozen=True, slots=True)
class StageResources:
    """The workers of one stage.

    Attributes:
        replicas: How many; may be zero.
        cpus: Processors that Ray sets aside for each.
        gpus: GPUs that Ray sets aside for each.
        threads: Threads that compute in each.
    """

    replicas: int
    cpus: float
    gpus: float
    threads: int


def resolve_stages(spec: ClusterSpec, serves: Serves, *, cpu_count: int) -> dict[Stage, StageResources]:
    """The workers of every stage, in the order of the stages.

    Args:
        spec: The settings.
        serves: What the model does.
        cpu_count: Processors of the machine that the workers share.

    Raises:
        FailedPrecondition: as `resolve_layout`.
    """
    wanted = spec.stages.layout if spec.stages else spec.layout
    layout = resolve_layout(wanted, serves)
    threads = threads_for(layout, cpu_count)
    share = (
        max(1, cpu_count * 100 // layout.total) / 100
    )  # Ray counts in hundredths at best, and a sum must not exceed
    return {
        stage: _resources(_stage_spec(spec, stage), layout.replicas(stage), share, threads[stage]) for stage in Stage
    }


def threads_for(layout: Layout, cpu_count: int) -> dict[Stage, int]:
    """Threads of each worker of a stage, for workers that share one machine.

    Decode gets every processor: it is bound by memory bandwidth, runs all the time, and its threads sleep while they
    wait. Prefill leaves one processor to it, so that a long prompt does not halt the answers that are being written.
    Encode takes one: the towers are small. Workers of the same stage divide the processors, and those of a model
    that gives embeddings have them for themselves.
    """
    return {
        Stage.ENCODE: 1 if layout.decode else max(1, cpu_count // layout.encode),
        Stage.PREFILL: max(1, (cpu_count - 1) // max(1, layout.prefill)),
        Stage.DECODE: max(1, cpu_count // max(1, layout.decode)),
    }


def _stage_spec(spec: ClusterSpec, stage: Stage) -> StageSpec | None:
    if spec.stages is None:
        return None
    match stage:
        case Stage.ENCODE:
            return spec.stages.encode
        case Stage.PREFILL:
            return spec.stages.prefill
        case Stage.DECODE:
            return spec.stages.decode


def _resources(given: StageSpec | None, replicas: int, share: float, threads: int) -> StageResources:
    if given is None:
        return StageResources(replicas, share, 0.0, threads)
    return StageResources(
        replicas,
        cpus=given.cpus if given.cpus is not None else share,
        gpus=given.gpus,
        threads=given.threads if given.threads is not None else threads,
    )
