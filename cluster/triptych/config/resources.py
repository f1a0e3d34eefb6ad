"""How many workers of each stage there will be, and what each may use: the settings with every `auto` decided."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from triptych.config.layout import Layout, Serves, resolve_layout
from triptych.config.spec import ClusterSpec
from triptych.config.stages import Ranks, StageSpec
from triptych.core.fleet import Stage
from triptych.experts.settings import OffloadSettings

ALONE: Final = Ranks()


@dataclass(frozen=True, slots=True)
class StageResources:
    """The workers of one stage.

    Attributes:
        replicas: How many; may be zero.
        cpus: Processors that Ray sets aside for each rank of one.
        gpus: GPUs that Ray sets aside for each rank.
        threads: Threads that compute in each rank.
        ranks: The processes of one worker.
    """

    replicas: int
    cpus: float
    gpus: float
    threads: int
    ranks: Ranks = ALONE


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
    ranks = {stage: _ranks(spec, stage) for stage in Stage}
    threads = threads_for(layout, cpu_count, {stage: of.size for stage, of in ranks.items()})
    processes = sum(layout.replicas(stage) * ranks[stage].size for stage in Stage)
    share = max(1, cpu_count * 100 // processes) / 100  # Ray counts in hundredths at best; a sum must not exceed
    return {
        stage: _resources(_stage_spec(spec, stage), layout.replicas(stage), share, threads[stage], ranks[stage])
        for stage in Stage
    }


def threads_for(layout: Layout, cpu_count: int, ranks: Mapping[Stage, int]) -> dict[Stage, int]:
    """Threads of each rank of a stage's workers, for workers that share one machine.

    Decode gets every processor: it is bound by memory bandwidth, runs all the time, and its threads sleep while they
    wait. Prefill leaves one processor to it, so that a long prompt does not halt the answers that are being written.
    Encode takes one: the towers are small. Workers of the same stage, and the ranks of a worker, divide the
    processors, and those of a model that gives embeddings have them for themselves.

    Args:
        layout: The workers.
        cpu_count: Processors of the machine.
        ranks: Of one worker, by stage; 1 where a stage is left out.
    """
    prefill, decode = (max(1, layout.replicas(s) * ranks.get(s, 1)) for s in (Stage.PREFILL, Stage.DECODE))
    return {
        Stage.ENCODE: 1 if layout.decode else max(1, cpu_count // layout.encode),
        Stage.PREFILL: max(1, (cpu_count - 1) // prefill),
        Stage.DECODE: max(1, cpu_count // decode),
    }


def offload_of(spec: ClusterSpec, stage: Stage) -> OffloadSettings | None:
    """How each rank of a stage keeps experts: as the stage says, and where it says nothing, as the cluster does."""
    if stage is Stage.ENCODE:
        return None
    given = _stage_spec(spec, stage)
    return (given.experts if given and given.experts else spec.experts).offload()


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


def _ranks(spec: ClusterSpec, stage: Stage) -> Ranks:
    """What the stage says of its ranks, and where it says nothing, what the cluster says."""
    if stage is Stage.ENCODE:
        return ALONE
    given = _stage_spec(spec, stage)
    whole = Ranks(spec.tensor_parallel, spec.expert_parallel, spec.attention_parallel)
    if given is None:
        return whole
    return Ranks(
        given.tensor_parallel or whole.tensor,
        given.expert_parallel or whole.expert,
        given.attention_parallel or whole.attention,
    )


def _resources(given: StageSpec | None, replicas: int, share: float, threads: int, ranks: Ranks) -> StageResources:
    if given is None:
        return StageResources(replicas, share, 0.0, threads, ranks)
    return StageResources(
        replicas,
        cpus=given.cpus if given.cpus is not None else share,
        gpus=given.gpus,
        threads=given.threads if given.threads is not None else threads,
        ranks=ranks,
    )
