"""Who will be asked for soon: what mixtures do beside their own work, so that experts are read before their turn."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from triptych.models.parameters import Linear
from triptych.models.step import StepInput
from triptych.models.workspace import Activations

Prefetch: TypeAlias = Callable[[int, Tensor, int], None]
"""Of a mixture, by scores [n, E] float32 of all its experts, so many of each row; see `Residency.prefetch`."""


class Predictor(Protocol):
    """Has experts of later layers read. Mixtures are numbered from 0; all that it calls are ops, as in any layer."""

    def begin(self, step: StepInput, acts: Activations) -> None:
        """A step begins: `acts.residual` [T, H] holds what its tokens are embedded as."""

    def ahead(self, mixture: int, x: Tensor) -> None:
        """A mixture has asked for its experts, which rows x [n, H] go through; what comes after it is free to be."""


@dataclass(frozen=True, slots=True)
class Nobody:
    """Reads nothing in advance."""

    def begin(self, step: StepInput, acts: Activations) -> None:
        """See `Predictor.begin`."""

    def ahead(self, mixture: int, x: Tensor) -> None:
        """See `Predictor.ahead`."""


class ScoreRows:
    """Memory for scores [n, width] float32 that every step uses again; it grows with the largest.

    Args:
        width: Of a row.
        device: Where it is.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        self._all = torch.empty(0, width, device=device)

    def first(self, rows: int) -> Tensor:
        """So many rows, not filled. Who has recorded them keeps them."""
        if rows > len(self._all):
            self._all = self._all.new_empty(1 << (rows - 1).bit_length(), self._all.shape[1])
        return self._all[:rows]


@dataclass(frozen=True, slots=True)
class NextGate:
    """Asks the next mixture's router of what this one reads: the residual stream changes slowly (Fate, 2502.12224).

    Attributes:
        routers: Of all mixtures.
        tops: How many experts of a row are likely, by mixture.
        prefetch: Of the rank.
        rows: Room for the scores of a mixture, by its number of experts.
    """

    routers: tuple[Linear, ...]
    tops: tuple[int, ...]
    prefetch: Prefetch
    rows: dict[int, ScoreRows]

    def begin(self, step: StepInput, acts: Activations) -> None:
        """See `Predictor.begin`."""

    def ahead(self, mixture: int, x: Tensor) -> None:
        """See `Predictor.ahead`."""
        after = mixture + 1
        if after < len(self.routers):
            router = self.routers[after]
            scores = self.rows[router.weight.outputs].first(len(x))
            router(x, scores)
            self.prefetch(after, scores, self.tops[after])


@dataclass(frozen=True, slots=True)
class Ring:
    """Reads all experts of the next mixture, in their order (SE-MoE, 2205.10034).

    Attributes:
        equal: [1, E] zeros, by mixture: nobody is likelier than another.
        prefetch: Of the rank.
    """

    equal: tuple[Tensor, ...]
    prefetch: Prefetch

    def begin(self, step: StepInput, acts: Activations) -> None:
        """See `Predictor.begin`."""

    def ahead(self, mixture: int, x: Tensor) -> None:
        """See `Predictor.ahead`."""
        after = mixture + 1
        if after < len(self.equal):
            self.prefetch(after, self.equal[after], self.equal[after].shape[1])


class Routed:
    """Foretells all mixtures at once, of the tokens alone (after ExpertFlow, 2410.17954).

    Args:
        score: Writes scores [T, L · E] float32 of embedded tokens [T, H]: one op.
        tops: How many experts of a row are likely, by mixture.
        prefetch: Of the rank.
        rows: Room for the scores.
    """

    def __init__(
        self, score: Callable[[Tensor, Tensor], None], tops: tuple[int, ...], prefetch: Prefetch, rows: ScoreRows
    ) -> None:
        self._score = score
        self._tops = tops
        self._prefetch = prefetch
        self._rows = rows
        self._scores: tuple[Tensor, ...] = ()

    def begin(self, step: StepInput, acts: Activations) -> None:
        """See `Predictor.begin`."""
        scores = self._rows.first(len(acts.residual))
        self._score(acts.residual, scores)
        self._scores = scores.chunk(len(self._tops), dim=1)
        self._ask(0)

    def ahead(self, mixture: int, x: Tensor) -> None:
        """See `Predictor.ahead`."""
        if mixture + 1 < len(self._tops):
            self._ask(mixture + 1)

    def _ask(self, mixture: int) -> None:
        self._prefetch(mixture, self._scores[mixture], self._tops[mixture])
