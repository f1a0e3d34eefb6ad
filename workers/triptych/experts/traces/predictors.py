"""Who is read in advance, as replay has it: worked out for a whole recording at once."""

from dataclasses import dataclass
from typing import assert_never

import numpy as np
import numpy.typing as npt

from triptych.experts.traces.route_model import RouteModel
from triptych.experts.traces.routes import Demand, Routes


@dataclass(frozen=True, slots=True)
class Nobody:
    """Nothing is read in advance."""


@dataclass(frozen=True, slots=True)
class NextGate:
    """Whom the next layer's router chooses on this layer's gate input, and `widen` more (Fate, arXiv:2502.12224)."""

    widen: int


@dataclass(frozen=True, slots=True)
class Route:
    """Whom a trained model expects from the token alone, and `widen` more (ExpertFlow, arXiv:2410.17954).

    Attributes:
        model: Trained.
        widen: Experts beyond K.
    """

    model: RouteModel
    widen: int


@dataclass(frozen=True, slots=True)
class Everybody:
    """All experts of the next layer, one after the other."""


Predictor = Nobody | NextGate | Route | Everybody


def foretold(predictor: Predictor, routes: Routes) -> tuple[Demand, ...]:
    """By step and layer: who is to be read in advance, likeliest first."""
    model = routes.model
    match predictor:
        case Nobody():
            return (((),) * model.layers,) * len(routes)
        case Everybody():
            return (((), *((tuple(range(model.experts)),) * (model.layers - 1))),) * len(routes)
        case NextGate(widen):
            seen = routes.foreseen
            top = model.top_k + widen
            return tuple(
                ((), *(_likely(*layer, top, model.experts) for layer in zip(*step, strict=True)))
                for step in ((seen.experts[:, rows], seen.chances[:, rows]) for rows in routes.rows())
            )
        case Route(trained, widen):
            order, chances = trained.ranked(routes, model.top_k + widen)
            return tuple(
                tuple(
                    _likely(*layer, model.top_k + widen, model.experts)
                    for layer in zip(order[:, rows], chances[:, rows], strict=True)
                )
                for rows in routes.rows()
            )
        case _:
            assert_never(predictor)


def _likely(
    experts: npt.NDArray[np.integer], chances: npt.NDArray[np.floating], top: int, count: int
) -> tuple[int, ...]:
    """Of [T, C], best first: those among any row's `top` best, by their chances in all rows; ties by number."""
    if len(experts) == 1:
        return tuple(experts[0, :top].tolist())
    worth = np.bincount(experts.ravel(), weights=chances.ravel().astype(np.float64), minlength=count)
    some = np.unique(experts[:, :top])
    return tuple(some[np.argsort(-worth[some], kind="stable")].tolist())
