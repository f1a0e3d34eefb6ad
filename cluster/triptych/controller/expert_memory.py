"""Memory that workers keep experts in: what each stage gets, decided before any of them is started. Pure."""

from collections.abc import Mapping
from typing import assert_never

from triptych.config.resources import StageResources, offload_of
from triptych.config.spec import ClusterSpec
from triptych.config.stages import Ranks
from triptych.core.errors import InvalidArgument
from triptych.core.fleet import Stage
from triptych.engine.expert_fit import need_of_pools, settled
from triptych.experts.fit import Need, choose_budget
from triptych.experts.pool import LayerNeed
from triptych.experts.settings import Auto, Bytes, Fraction, OffloadSettings
from triptych.models.expert_sizes import WeightForm, expert_parameters, layer_needs
from triptych.models.size import parameters
from triptych.models.spec import DecoderSpec, EmbedderSpec, ModelSpec
from triptych.parallel import Parallelism

Offloads = Mapping[Stage, OffloadSettings | None]
"""How each rank of a stage keeps experts; None keeps all in memory."""


def offloads_of(
    spec: ClusterSpec, model: ModelSpec | EmbedderSpec, stages: Mapping[Stage, StageResources]
) -> dict[Stage, OffloadSettings | None]:
    """As the settings have it; `auto` is still to be settled.

    Raises:
        InvalidArgument: a number was given for a model that has no experts, or `auto` for ranks of another machine,
            each of which would decide for itself.
    """
    wanted = {stage: offload_of(spec, stage) for stage in Stage}
    if isinstance(model, EmbedderSpec) or not expert_parameters(model.decoder):
        given = next((o for o in wanted.values() if o is not None and not isinstance(o.budget, Auto)), None)
        if given is not None:
            raise InvalidArgument(f"{spec.name} has no experts: leave experts.budget out", field="experts.budget")
        return dict.fromkeys(Stage)
    divided = any(stages[stage].ranks.size > 1 for stage, _ in _automatic(wanted))
    if spec.ray.address is not None and divided:
        raise InvalidArgument(
            "experts.budget must be a share or a size for workers of several ranks in a Ray cluster that is joined, "
            "got auto",
            field="experts.budget",
        )
    return wanted


def settle(
    offloads: Offloads,
    decoder: DecoderSpec,
    form: WeightForm,
    stages: Mapping[Stage, StageResources],
    *,
    fixed: int,
    free: int,
) -> dict[Stage, OffloadSettings | None]:
    """The same with a number in place of `auto`, or None where all experts fit.

    Args:
        offloads: As the settings have it.
        decoder: The model.
        form: Of its weights.
        stages: Ranks and workers of each.
        fixed: Bytes of all workers together, weights aside.
        free: Bytes of this machine's memory.

    Raises:
        FailedPrecondition: not even the smallest pools fit.
    """
    automatic = _automatic(offloads)
    if not automatic:
        return dict(offloads)
    experts = round(expert_parameters(decoder) * form.element)
    fixed += round(parameters(decoder) * form.element) - experts
    serving = [stage for stage in (Stage.PREFILL, Stage.DECODE) if stages[stage].replicas]
    if any(offloads[stage] is None for stage in serving):  # they map all of them, for everybody
        fixed, experts = fixed + experts, 0
    fixed += sum(
        stages[stage].replicas * stages[stage].ranks.size * pool_bytes(offload, decoder, form, stages[stage].ranks)
        for stage in serving
        if (offload := offloads[stage]) is not None
    )
    pools = [need_of_pools(_layers(offload, decoder, form, stages[stage].ranks)) for stage, offload in automatic]
    processes = sum(stages[stage].replicas * stages[stage].ranks.size for stage, _ in automatic)
    need = Need(fixed, experts, max(pool for pool, _ in pools), max(least for _, least in pools), max(processes, 1))
    verdict = choose_budget(need, free)
    return {
        **offloads,
        **{stage: settled(offload, verdict) for stage, offload in automatic},
    }


def pool_bytes(offload: OffloadSettings, decoder: DecoderSpec, form: WeightForm, ranks: Ranks) -> int:
    """Of each rank, about; 0 where the budget is not settled."""
    layers = _layers(offload, decoder, form, ranks)
    everything, _ = need_of_pools(layers)
    match offload.budget:
        case Bytes(count):
            return min(count, everything)
        case Fraction(of_all):
            return min(round(of_all * sum(layer.whole for layer in layers)), everything)
        case Auto():
            return 0
        case _:
            assert_never(offload.budget)


def _automatic(offloads: Offloads) -> list[tuple[Stage, OffloadSettings]]:
    return [
        (stage, offload)
        for stage, offload in offloads.items()
        if offload is not None and isinstance(offload.budget, Auto)
    ]


def _layers(offload: OffloadSettings, decoder: DecoderSpec, form: WeightForm, ranks: Ranks) -> tuple[LayerNeed, ...]:
    """Of each rank of a stage; workers compute on CPUs."""
    parallelism = Parallelism(ranks.tensor, ranks.expert, ranks.attention)
    return layer_needs(decoder, form, parallelism, compact=offload.twelve_bits("cpu"))
