"""What a budget comes to: pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from triptych.experts.fit.prediction import Prediction, Speeds, Work, expected_hits, predict
from triptych.experts.pool import LayerNeed, pool_of
from triptych.experts.settings import Bytes, OffloadSettings, Rounding

_ROUNDED: Final[dict[Rounding, float]] = {"int8": 1.0, "int4": 18 / 32}
"""Bytes of a weight that is read rounded; scales of rows aside, which are few."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of one budget.

    Attributes:
        bytes: Of experts in memory, of each worker.
        hit_ratio: Expected share of the demand that is there.
        tokens_per_second: Of one request, about, as hits are expected; at most where all experts are there.
        bound: What limits it: reading weights from memory, or experts from disk.
    """

    bytes: int
    hit_ratio: float
    tokens_per_second: float
    bound: Literal["memory", "disk"]

    @classmethod
    def of(cls, nbytes: int, hit_ratio: float, prediction: Prediction) -> "Forecast":
        """What is predicted."""
        return cls(nbytes, hit_ratio, prediction.tokens_per_second, prediction.bound)


def forecast(
    budget: int, offload: OffloadSettings, layers: Sequence[LayerNeed], work: Work, speeds: Speeds
) -> Forecast:
    """Of a budget in bytes that holds the experts of one layer.

    Args:
        budget: Bytes.
        offload: How experts are kept, but for the budget.
        layers: Of the model, with what earlier runs counted.
        work: Of a token, with experts as slots and the disk have them: `work_of`.
        speeds: Measured.
    """
    hits = expected_hits(pool_of(replace(offload, budget=Bytes(budget)), layers), layers)
    return Forecast.of(budget, hits, predict(work, speeds, hits))


def work_of(elements: float, element: float, layers: Sequence[LayerNeed], rounding: Rounding | None) -> Work:
    """What a step of one row reads where experts have a budget, in the form that slots and the disk have them in.

    Args:
        elements: That the step reads, of experts those it uses.
        element: Bytes of one where all are in memory, on average.
        layers: Of the model.
        rounding: What experts are read rounded to; slots have them as they are.
    """
    plain = sum(layer.top_k * layer.plain for layer in layers)
    used = sum(layer.top_k * layer.nbytes for layer in layers)
    read = used if rounding is None else used * _ROUNDED[rounding] / element
    return Work(elements * element - plain + used, read)
