"""Surveys the experts of a mixture for `triptych models check`."""

from collections.abc import Callable
from functools import partial
from typing import Final, Literal, assert_never

from triptych.cli.models.checking import StageMemory
from triptych.cli.models.mixture import MixtureReport
from triptych.core.fleet import Stage
from triptych.engine.expert_fit import disk_speed, need_of_pools
from triptych.experts.fit import (
    Everything,
    Forecast,
    Need,
    Part,
    Prediction,
    Speeds,
    TooLittle,
    Verdict,
    Work,
    choose_budget,
    forecast,
    free_memory,
    predict,
    work_of,
)
from triptych.experts.pool import LayerNeed
from triptych.experts.settings import OffloadSettings
from triptych.models.expert_sizes import WeightForm, expert_parameters, layer_needs, with_earlier_uses
from triptych.models.files import ModelFiles
from triptych.models.size import parameters, step_parameters
from triptych.models.spec import DecoderSpec

SHARES: Final = (0.1, 0.25, 0.5, 0.75)


def check_mixture(
    files: ModelFiles,
    spec: DecoderSpec,
    form: WeightForm,
    stages: tuple[StageMemory, ...],
    offload: OffloadSettings,
    read: float,
) -> MixtureReport | None:
    """What is said of a model's experts, None without any; reads a file for half a second.

    Args:
        files: The model.
        spec: What it is.
        form: Of its weights.
        stages: The workers, all ranks of their own.
        offload: How they keep experts; the budget is to be found.
        read: Bytes per second that come from memory.

    Raises:
        ResourceExhausted, Unavailable: the disk of the cache directory cannot be measured.
    """
    if not (elements := expert_parameters(spec)):
        return None
    layers, pack = with_earlier_uses(layer_needs(spec, form, compact=offload.twelve_bits("cpu")), files)
    pool, least = need_of_pools(layers)
    fixed = (parameters(spec) - elements) * form.element + sum(stage.workers * stage.bytes for stage in stages)
    processes = sum(stage.workers for stage in stages if stage.stage != Stage.ENCODE.value)
    need = Need(round(fixed), round(elements * form.element), pool, least, processes)
    step = step_parameters(spec)
    work = work_of(step, form.element, layers, offload.rounding)
    size = max(layer.nbytes for layer in layers)
    speeds = Speeds(read, disk_speed(pack, size, offload.readers))
    everything = predict(Work(step * form.element, 0), speeds, 1.0)
    foretell = partial(forecast, offload=offload, layers=layers, work=work, speeds=speeds)
    return survey_mixture(layers, need, free_memory(), everything, foretell, speeds.disk)


def survey_mixture(
    layers: tuple[LayerNeed, ...],
    need: Need,
    free: int,
    everything: Prediction,
    foretell: Callable[[int], Forecast],
    disk: float,
) -> MixtureReport:
    """Pure.

    Args:
        layers: Of the model, with what earlier runs counted.
        need: Of all workers.
        free: Bytes of memory.
        everything: Of a token with all experts in memory.
        foretell: What a budget in bytes comes to.
        disk: Bytes per second.
    """
    whole = sum(layer.whole for layer in layers)
    auto, auto_bytes = _auto(choose_budget(need, free), whole)
    budgets = {round(share * whole) for share in SHARES} | ({auto_bytes} if auto == "part" else set())
    return MixtureReport(
        experts=sum(layer.experts for layer in layers),
        expert_bytes=max(layer.nbytes for layer in layers),
        bytes=whole,
        token_bytes=sum(layer.top_k * layer.nbytes for layer in layers),
        least_bytes=need.least,
        auto=auto,
        auto_bytes=auto_bytes,
        disk_bytes_per_second=disk,
        counted=any(any(layer.uses) for layer in layers),
        everything=Forecast.of(whole, 1.0, everything),
        forecasts=tuple(foretell(budget) for budget in sorted(budgets) if budget >= need.least),
    )


def _auto(verdict: Verdict, whole: int) -> tuple[Literal["everything", "part", "nothing"], int]:
    match verdict:
        case Everything():
            return "everything", whole
        case Part(nbytes):
            return "part", nbytes
        case TooLittle():
            return "nothing", 0
        case _:
            assert_never(verdict)
