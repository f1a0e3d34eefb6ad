"""The trained predictor `route` in a step, and whose routes a file has."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from triptych.core.errors import FailedPrecondition
from triptych.experts.traces import TracedModel, read_route_model
from triptych.kernels import DenseWeight, Weight, dequantize
from triptych.models.parameters import Linear


@dataclass(frozen=True, slots=True)
class ExpertRoute:
    """Scores of the experts of all layers, by the token alone: one op, which is recorded as any other.

    Attributes:
        weight: [L · E, H], of the activations' type; layers that have experts, one after the other.
        bias: [L · E].
    """

    weight: Weight
    bias: Tensor

    @classmethod
    def load(cls, path: Path, routers: Sequence[Linear], dtype: torch.dtype, device: torch.device) -> "ExpertRoute":
        """Reads what `triptych experts train` has written.

        Args:
            path: The file.
            routers: Of the model, layer after layer.
            dtype: Of the activations.
            device: Of the model.

        Raises:
            NotFound: there is no such file.
            DataLoss: it is torn, or something else.
            FailedPrecondition: it was trained for another model.
        """
        trained = read_route_model(path)
        if trained.model.digest != routers_digest(routers):
            raise FailedPrecondition(
                f"experts.route: {path} was trained for {_described(trained.model)}, and the routers of this model "
                "are others; record and train again",
                field="experts.route",
            )
        # Only differences within a layer matter, and small numbers have more digits.
        bias = torch.from_numpy(trained.bias).view(trained.model.layers, -1)
        bias = (bias - bias.mean(dim=1, keepdim=True)).flatten()
        weight = torch.from_numpy(trained.weight).to(device, dtype)
        return cls(DenseWeight(weight), bias.to(device, dtype))

    def __call__(self, embedded: Tensor, scores: Tensor) -> None:
        """Writes scores [T, L · E] float32 of rows [T, H] as they go into the first layer."""
        Linear(self.weight, self.bias)(embedded, scores)


def routers_digest(routers: Sequence[Linear]) -> str:
    """Tells models apart whose tokens go other ways; the type of their activations makes no difference."""
    digest = blake2b(digest_size=12)
    for router in routers:
        digest.update(dequantize(router.weight).bfloat16().view(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()


def _described(model: TracedModel) -> str:
    return f"{model.name} ({model.layers} layers of {model.experts} experts)"
