"""Whom each layer will choose, as a linear function of the token alone (after ExpertFlow, arXiv:2410.17954)."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from triptych.core.errors import DataLoss, FailedPrecondition, NotFound
from triptych.experts.traces.routes import Routes, TracedModel

_FORM: Final = "triptych route 1"
_FIELD: Final = "experts.route"


@dataclass(frozen=True, slots=True, eq=False)
class RouteModel:
    """What has been trained.

    Attributes:
        model: Whose routes these are.
        weight: [L · E, H] float32, layer after layer.
        bias: [L · E] float32.
    """

    model: TracedModel
    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]

    def scores(self, embedded: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """[R, L, E], larger for experts that are likelier, of rows [R, H] as they go into the first layer."""
        scores: npt.NDArray[np.float32] = embedded @ self.weight.T + self.bias
        return scores.reshape(len(embedded), self.model.layers, self.model.experts)

    def ranked(self, routes: Routes, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """[L, R, count] experts, likeliest first, and their softmax."""
        scores = self.scores(routes.embedded()).transpose(1, 0, 2)
        order = np.argsort(-scores, axis=-1, kind="stable")[..., :count]
        chances = np.exp(scores - scores.max(axis=-1, keepdims=True))
        chances /= chances.sum(axis=-1, keepdims=True)
        return order, np.take_along_axis(chances, order, axis=-1)


def write_route_model(path: Path, trained: RouteModel) -> None:
    """Writes a .safetensors file.

    Raises:
        FailedPrecondition: it cannot be written.
    """
    metadata = {"form": _FORM, "model": json.dumps(asdict(trained.model))}
    try:
        save_file({"weight": trained.weight, "bias": trained.bias}, path, metadata)
    except (OSError, SafetensorError) as error:
        raise FailedPrecondition(f"{path} cannot be written: {error}", field="out") from None


def read_route_model(path: Path) -> RouteModel:
    """Reads what `write_route_model` wrote.

    Raises:
        NotFound: there is no such file.
        DataLoss: it is torn, or something else.
    """
    if not path.is_file():
        raise NotFound(f"{path} does not exist", field=_FIELD)
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            weight, bias = (file.get_tensor(name) for name in ("weight", "bias"))
        model = TracedModel(**json.loads(metadata["model"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise DataLoss(f"{path} is torn, or no route that was trained: {error}", field=_FIELD) from None
    width = model.layers * model.experts
    if metadata.get("form") != _FORM or weight.shape != (width, model.hidden) or bias.shape != (width,):
        raise DataLoss(f"{path} is not in the form {_FORM!r}; train it again", field=_FIELD)
    return RouteModel(model, weight.astype(np.float32), bias.astype(np.float32))
