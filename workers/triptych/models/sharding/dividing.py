"""From a whole model's parameters to those of one rank."""

from dataclasses import replace

from triptych.models.parameters import Parameters
from triptych.models.sharding.cuts import cuts
from triptych.models.sharding.local import local_spec
from triptych.models.spec import DecoderSpec
from triptych.parallel import Mesh


def divide(parameters: Parameters, spec: DecoderSpec, mesh: Mesh) -> tuple[DecoderSpec, Parameters]:
    """What one rank has of a model, as a spec of its own, and its parameters, which read nothing else.

    Raises:
        InvalidArgument: more ranks than the model can be divided among.
    """
    grid, rank = mesh.parallelism, mesh.rank
    block = _widest_block(parameters) if grid.size > 1 else 1
    own = cuts(spec, grid, rank, block)
    return local_spec(spec, grid, rank, block), replace(parameters, mesh=mesh, cuts=own)


def _widest_block(parameters: Parameters) -> int:
    """Elements of the largest blocks in the rows of feed-forward blocks' last matrices, which columns are cut of."""
    weights = parameters.weights
    return max((weights.block(name) for name in weights.names if name.endswith(".down.weight")), default=1)
