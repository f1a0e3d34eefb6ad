"""Norms of the decoder."""

from dataclasses import dataclass

from torch import Tensor

from triptych.kernels import add_rms_norm, add_rms_norm_rows, rms_norm
from triptych.models.parameters import Parameters
from triptych.models.spec import NormSpec


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """Root-mean-square norm over the last dimension; `weight` [H]."""

    weight: Tensor
    eps: float

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """Normalises x [T, H] into `out`, which may be `x`."""
        rms_norm(x, self.weight, self.eps, out)

    def of_sum(self, x: Tensor, residual: Tensor, out: Tensor) -> None:
        """Adds x [T, H] to `residual` and normalises that into `out`."""
        add_rms_norm(x, residual, self.weight, self.eps, out)

    def of_rows(self, x: Tensor, residual: Tensor, rows: Tensor, out: Tensor) -> None:
        """Normalises some rows of x + residual into `out`, neither of them changed."""
        add_rms_norm_rows(x, residual, rows, self.weight, self.eps, out)


def load_norm(name: str, spec: NormSpec, parameters: Parameters) -> RmsNorm:
    """Reads the norm called `name`."""
    weight = parameters.tensor(f"{name}.weight")
    # The sum stays in float32: near one, bfloat16 has lost what the distance from it still had.
    return RmsNorm(weight.float() + spec.offset if spec.offset else weight, spec.eps)
