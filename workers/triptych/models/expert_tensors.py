"""An expert among a model's parameters."""

from triptych.experts.blob import Expert, Matrix
from triptych.models.parameters import Parameters
from triptych.models.sharding.cuts import Columns, Rows

_NAMES = ("gate", "up", "down")


def read_expert(parameters: Parameters, layer: int, expert: int) -> Expert:
    """What a rank has of it; views of the mapped file, where it is not cut by columns.

    Args:
        parameters: The rank's.
        layer: Among all of the model.
        expert: In the checkpoint.
    """
    linears = (parameters.linear(f"{_prefix(layer, expert)}.{name}") for name in _NAMES)
    gate, up, down = (Matrix(linear.weight, linear.bias) for linear in linears)
    return gate, up, down


def tensor_names(parameters: Parameters, layer: int, expert: int) -> list[str]:
    """Of its tensors."""
    names = (f"{_prefix(layer, expert)}.{name}.{kind}" for name in _NAMES for kind in ("weight", "bias"))
    return [name for name in names if parameters.has(name)]


def made_of(parameters: Parameters, layer: int, expert: int) -> str:
    """Form, place and slice of each of its tensors: the same for ranks that have the same of a checkpoint."""
    names = tensor_names(parameters, layer, expert)
    return "\0".join(f"{name} = {_slice(parameters, name)} of {parameters.weights.origin(name)}" for name in names)


def _slice(parameters: Parameters, name: str) -> str:
    shape = parameters.weights.shape(name)
    match parameters.cuts.get(name):
        case None:
            return "all"
        case Rows(interval) if interval.size == shape[0]:
            return "all"
        case Columns(interval) if interval.size == shape[1]:
            return "all"
        case cut:
            return repr(cut)


def _prefix(layer: int, expert: int) -> str:
    return f"layers.{layer}.mlp.experts.{expert}"
