"""What a budget comes to: pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from triptych.experts.fit.prediction import Prediction, Speeds, Work, expected_hits, predict
from triptych.experts.pool import LayerNeed, pool_of
from triptych.experts.settings import Bytes, OffloadSettings


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of one budget.

    Attributes:
        bytes: Of experts in memory, of each worker.
        hit_ratio: Expected share of the demand that is there.
        tokens_per_second: Of one request, at most.
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


def forecast(budget: int, layers: Sequence[LayerNeed], work: Work, speeds: Speeds) -> Forecast:
    """Of a budget in bytes that holds the experts of one layer.

    Args:
        budget: Bytes.
        layers: Of the model, with what earlier runs counted.
        work: Of a token.
        speeds: Measured.
    """
    hits = expected_hits(pool_of(OffloadSettings(budget=Bytes(budget)), layers), layers)
    return Forecast.of(budget, hits, predict(work, speeds, hits))
