"""Whether reading in advance pays: windows of steps with it and without it, compared in pairs.

Where predictions look good, speculation can still take more bandwidth than it saves; so what is compared is time.
Where the difference is too small to be seen it is given up: it reads more, and what is nobody's gain needs no proof.
"""

from dataclasses import dataclass, replace
from statistics import median
from typing import assert_never

PAIRS = 8
"""Of windows that a verdict takes."""
_MARGIN = 0.02
"""Of the time of a step that makes reading in advance worth it."""
_ALIKE = 1.25
"""How much more one window of a pair may demand than the other."""
_FIRST, _SHORTEST, _LONGEST = 8, 64, 1024
"""Windows before the first trial, in which the pool fills, and between trials."""


@dataclass(frozen=True, slots=True)
class Window:
    """A few steps that followed each other.

    Attributes:
        seconds: From the end of a step to the end of the next, the median.
        demanded: Experts that a step asked for, the mean.
        prefetched: Experts that were read in advance.
    """

    seconds: float
    demanded: float
    prefetched: int


@dataclass(frozen=True, slots=True)
class Resting:
    """Keeps to a verdict.

    Attributes:
        speculating: The verdict.
        left: Windows until the next trial.
        rest: Windows that this rest has in all.
        why: In a line.
    """

    speculating: bool = True
    left: int = _FIRST
    rest: int = _SHORTEST // 2
    why: str = "reading in advance has not been tried against not doing so"


@dataclass(frozen=True, slots=True)
class Trying:
    """Alternates: with, without, without, with; so that what drifts is no argument.

    Attributes:
        last: The verdict that holds unless the trial says otherwise.
        ratios: Seconds with over seconds without, of the pairs so far.
        first: The first window of the present pair.
    """

    last: Resting
    ratios: tuple[float, ...] = ()
    first: Window | None = None
    turned: bool = False

    @property
    def speculating(self) -> bool:
        """Whether the next window is one with."""
        return self.turned is not (self.first is None)


State = Resting | Trying


def after(state: State, window: Window) -> State:
    """What follows from a window that ran as `state.speculating` says."""
    match state:
        case Resting(left=left):
            return replace(state, left=left - 1) if left > 1 else Trying(state)
        case Trying(first=first):
            return replace(state, first=window) if first is None else _paired(state, first, window)
        case _:
            assert_never(state)


def _paired(state: Trying, first: Window, second: Window) -> State:
    pair = (second, first) if state.turned else (first, second)
    ratios = (*state.ratios, *_ratio(*pair))
    if len(ratios) == PAIRS:
        return _verdict(state.last, ratios)
    return replace(state, ratios=ratios, first=None, turned=not state.turned)


def _ratio(with_: Window, without: Window) -> tuple[float, ...]:
    """None of a pair that says nothing: other work was done, or nothing was read in advance."""
    less, more = sorted((with_.demanded, without.demanded))
    alike = 0 < more <= _ALIKE * less
    return (with_.seconds / without.seconds,) if alike and with_.prefetched and without.seconds > 0 else ()


def _verdict(last: Resting, ratios: tuple[float, ...]) -> Resting:
    middle, longer = median(ratios), sum(ratio > 1 for ratio in ratios)
    verdict = middle < 1 - _MARGIN
    if verdict:
        say = f"pays: steps take {1 - middle:.1%} less with it, longer in {longer}"
    elif middle > 1 + _MARGIN:
        say = f"does not pay: steps take {middle - 1:.1%} longer with it, in {longer}"
    else:
        say = f"makes no difference worth its reads: {middle - 1:+.1%} of a step, longer in {longer}"
    rest = min(2 * last.rest, _LONGEST) if verdict is last.speculating else _SHORTEST
    return Resting(verdict, rest, rest, f"reading in advance {say} of {len(ratios)} pairs of windows")
