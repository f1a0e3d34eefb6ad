"""Trains `RouteModel` on recordings: ridge regression, whose solution is exact and takes a second.

Logistic regression with the same inputs found fewer of the experts, and took longer. What the sequence's last token
was routed to finds some more, but a cache that keeps who was needed of late has most of those already.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from triptych.core.errors import InvalidArgument
from triptych.experts.traces.route_model import RouteModel
from triptych.experts.traces.routes import Routes

_STRENGTHS: Final = (1.0, 3.0, 10.0, 30.0)
_HELD_OUT: Final = 4
"""Every fourth sequence is kept from training, to see what it is worth on text that it has not seen."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model, and how well one did that had not seen a fourth of the sequences.

    Attributes:
        model: Trained on all of them.
        top: Experts of a row that recall is measured at.
        recall: By layer, of rows that nobody had seen: share of their experts that are among the `top` likeliest.
        most_frequent: The same, of who is used most by all other rows.
        as_before: The same, of whom the sequence's last token went to, then of who is used most.
        rows: Held out.
    """

    model: RouteModel
    top: int
    recall: tuple[float, ...]
    most_frequent: tuple[float, ...]
    as_before: tuple[float, ...]
    rows: int


def train(recordings: Sequence[Routes], widen: int) -> Trained:
    """Trains on recordings of one model.

    Raises:
        InvalidArgument: they are of different models, or of a single sequence.
    """
    model = recordings[0].model
    if any((r.model.digest, r.model.layers) != (model.digest, model.layers) for r in recordings):
        names = sorted({f"{r.model.name} ({r.model.digest})" for r in recordings})
        raise InvalidArgument(f"recordings must be of one model, got {' and '.join(names)}", field="trace")
    rows = _Rows.of(recordings)
    held = rows.sequences % _HELD_OUT == _HELD_OUT - 1
    if not held.any():
        raise InvalidArgument(
            f"training takes recordings of at least {_HELD_OUT} sequences, got {rows.sequences.max() + 1}",
            field="trace",
        )
    top = model.top_k + widen
    seen, unseen = rows.of_those(~held), rows.of_those(held)
    frequent = seen.chosen.mean(axis=0)
    tried = {s: _recall(_fit(seen, s, model.layers).scores(unseen.embedded), unseen.chosen, top) for s in _STRENGTHS}
    best = max(tried, key=lambda strength: float(tried[strength].mean()))
    fitted = _fit(rows, best, model.layers)
    return Trained(
        RouteModel(model, fitted.weight, fitted.bias),
        top,
        tuple(tried[best].tolist()),
        tuple(_recall(np.broadcast_to(frequent, unseen.chosen.shape), unseen.chosen, top).tolist()),
        tuple(_recall(unseen.before + frequent / 2, unseen.chosen, top).tolist()),
        len(unseen.chosen),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """embedded [R, H]; chosen, before [R, L, E] of zeros and ones; sequences [R], numbered over all recordings."""

    embedded: Floats
    chosen: Floats
    before: Floats
    sequences: npt.NDArray[np.int64]

    @classmethod
    def of(cls, recordings: Sequence[Routes]) -> "_Rows":
        parts, first = [], 0
        for routes in recordings:
            chosen = _chosen(routes)
            sequences = routes.sequences.astype(np.int64) + first
            parts.append(cls(routes.embedded(), chosen, _before(routes, chosen), sequences))
            first = int(sequences.max()) + 1
        return cls(
            np.concatenate([part.embedded for part in parts]),
            np.concatenate([part.chosen for part in parts]),
            np.concatenate([part.before for part in parts]),
            np.concatenate([part.sequences for part in parts]),
        )

    def of_those(self, rows: npt.NDArray[np.bool_]) -> "_Rows":
        return replace(
            self,
            embedded=self.embedded[rows],
            chosen=self.chosen[rows],
            before=self.before[rows],
            sequences=self.sequences[rows],
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    weight: Floats
    bias: Floats
    layers: int

    def scores(self, embedded: Floats) -> Floats:
        scores: Floats = (embedded @ self.weight.T + self.bias).reshape(len(embedded), self.layers, -1)
        return scores


def _chosen(routes: Routes) -> Floats:
    model = routes.model
    chosen = np.zeros((len(routes.tokens), model.layers, model.experts), np.float32)
    np.put_along_axis(chosen, routes.ids.transpose(1, 0, 2).astype(np.int64), 1, axis=2)
    return chosen


def _before(routes: Routes, chosen: Floats) -> Floats:
    """What `chosen` is of the token before; zeros for the first of a sequence."""
    order = np.lexsort((routes.positions, routes.sequences))
    follows = routes.sequences[order][1:] == routes.sequences[order][:-1]
    before = np.zeros_like(chosen)
    before[order[1:][follows]] = chosen[order[:-1][follows]]
    return before


def _fit(rows: _Rows, strength: float, layers: int) -> _Fitted:
    """Least squares of the deviation from the mean, with a penalty in units of a mean row's square."""
    mean = rows.chosen.mean(axis=0).reshape(-1)
    x = rows.embedded
    penalty = strength * float((x * x).sum(axis=1).mean())
    gram = x.T @ x + penalty * np.eye(x.shape[1], dtype=np.float32)
    weight = np.linalg.solve(gram, x.T @ (rows.chosen.reshape(len(x), -1) - mean)).T
    return _Fitted(np.ascontiguousarray(weight, np.float32), mean, layers)


def _recall(scores: Floats, chosen: Floats, top: int) -> Floats:
    """[L]."""
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :top]
    found: Floats = np.take_along_axis(chosen, order, axis=-1).sum(axis=(0, 2)) / chosen.sum(axis=(0, 2))
    return found
