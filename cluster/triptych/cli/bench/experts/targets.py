"""What the project has set itself for experts that do not fit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from triptych.cli.bench.experts.arms import DEFAULT, OnDemand, Resident
from triptych.cli.bench.experts.figures import Failed, Figures

_BUDGET: Final = "50%"
_LEAST_BUDGET: Final = "10%"
POINTS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Target:
    """A figure beside its limit.

    Attributes:
        name: In words.
        value: As measured.
        limit: What it must be.
        at_least: Whether more is better.
    """

    name: str
    value: float
    limit: float
    at_least: bool = True

    @property
    def reached(self) -> bool:
        """Whether the limit is kept."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def targets(arms: Sequence[Figures | Failed], *, synthetic: bool) -> tuple[Target, ...]:
    """Those that the arms of a run allow to judge.

    Speed is asked of the default settings on one rank: on a model of text at half of the memory, on the synthetic one
    at whatever it is served with.
    """
    lines = [arm for arm in arms if isinstance(arm, Figures)]
    resident = next((line for line in lines if line.arm == Resident.name), None)
    none = next((line for line in lines if line.arm == OnDemand.name), None)
    ours = next((line for line in lines if line.arm == DEFAULT and (synthetic or line.budget == _BUDGET)), None)
    divided = any(line.ranks > 1 for line in lines)
    found = [] if divided else _speed(ours, resident, none, synthetic=synthetic)
    for line in lines:
        if line.budget == _LEAST_BUDGET:
            found.extend(_saved(line))
    if full := [line.peak_rss / line.allowed_rss for line in lines if line.allowed_rss]:
        found.append(Target("largest peak memory, of what is allowed", max(full), 1.0, at_least=False))
    if resident is not None:
        equal = sum(line.equal is True for line in lines)
        found.append(Target("arms with the tokens and log-probabilities of the resident one", equal, len(arms)))
    if off := [abs(line.first_hit - line.replayed_hit) for line in lines if line.replayed_hit is not None]:
        found.append(
            Target("largest distance of a replayed hit ratio from the live one", max(off), POINTS, at_least=False)
        )
    return tuple(found)


def _saved(line: Figures) -> Iterator[Target]:
    """By the size of the pool, which is what a budget is, and by what is resident, where it can be compared.

    Of every arm: what an arm has besides, such as a predictor's weights, is in the second.
    """
    name = f"{line.arm}, {line.budget}: memory of experts saved"
    yield Target(name, round(line.experts_saved, 3), 0.9)
    if line.rss_saved is not None:
        yield Target(f"{name}, of RSS", round(line.rss_saved, 3), 0.9)


def _speed(ours: Figures | None, resident: Figures | None, none: Figures | None, *, synthetic: bool) -> list[Target]:
    found: list[Target] = []
    if ours is None:
        return found
    name = f"{DEFAULT}, {ours.budget}"
    if none is not None:
        found.append(Target(f"{name}: times {OnDemand.name}", ours.tok_s / none.tok_s, 2.0 if synthetic else 3.0))
    if synthetic and ours.bound is not None:
        found.append(Target(f"{name}: share of the bound", ours.tok_s / ours.bound, 0.85))
    if not synthetic and resident is not None:
        found.append(Target(f"{name}: share of {Resident.name}", ours.tok_s / resident.tok_s, 0.8))
    return found
