"""The tensors of one adapter by our names: for each projection `NAME.down` [r, I] and `NAME.up` [r, O]."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from triptych.core.errors import DataLoss, NotFound, Unimplemented
from triptych.models.adapters.modules import Held, Module
from triptych.models.adapters.settings import LoraSettings, read_settings
from triptych.models.extent import Extent
from triptych.models.sources import FloatArray, SafetensorsSource, Shape

WEIGHTS: Final = "adapter_model.safetensors"

_ROOT: Final = "base_model.model."
_DOWN: Final = ".lora_A.weight"
_UP: Final = ".lora_B.weight"

Order = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class _Factor:
    """One of our tensors within one of the file's.

    Attributes:
        tensor: The file's name.
        held: Whose outputs are wanted, transposed; None for the tensor as it is.
    """

    tensor: str
    held: Held | None


class AdapterSource:
    """An adapter as a source of tensors; of the down factors of fused modules all their projections have a view.

    Args:
        folder: As PEFT saves it.
        modules: Of the model, that may have an adapter.
        order: In which our rows of a projection are wanted, by its name; None for the file's own order.

    Attributes:
        scales: Factor of the product, by projection.

    Raises:
        NotFound: the folder or one of its two files does not exist.
        DataLoss: a tensor is missing, of another shape than model and settings say, or not used.
        InvalidArgument, Unimplemented: as `read_settings`.
    """

    interleaved = False

    def __init__(self, folder: Path, modules: Iterable[Module], order: Callable[[str], Order | None]) -> None:
        self.settings = read_settings(folder)
        self.path = _weights(folder)
        self.files = (self.path,)
        self.shapes: dict[str, Shape] = {}
        self.scales: dict[str, float] = {}
        self._file = SafetensorsSource(self.path)
        self._order = order
        self._factors: dict[str, _Factor] = {}
        for module in modules:
            self._add(module, self.settings)
        self._refuse_unused()

    def describe(self, name: str) -> str:
        """The file and its tensor."""
        return self._file.describe(self._factors[name].tensor)

    def origin(self, name: str) -> str:
        """The file's tensor, and what of it ours is."""
        factor = self._factors[name]
        if factor.held is None:
            return factor.tensor
        ordered = "" if self._order(factor.held.name) is None else " in llama.cpp's order"
        return f"{factor.held.rows} of {factor.tensor} transposed{ordered}"

    def extent(self, name: str, dtype: str) -> Extent | None:
        """Where a down factor lies ready for use."""
        factor = self._factors[name]
        return self._file.extent(factor.tensor, dtype) if factor.held is None else None

    def blocks(self, name: str) -> None:
        """There are none."""

    def read(self, name: str, start: int, stop: int) -> FloatArray:
        """Rows [start, stop)."""
        factor = self._factors[name]
        if factor.held is None:
            return self._file.read(factor.tensor, start, stop)
        whole = self._file.read(factor.tensor, 0, self._file.shapes[factor.tensor][0])
        ours, order = whole[factor.held.rows], self._order(factor.held.name)
        return (ours if order is None else ours[order])[:, start:stop].T

    def _add(self, module: Module, settings: LoraSettings) -> None:
        there = [name for name in module.names if f"{_ROOT}{name}{_DOWN}" in self._file.shapes]
        name = (there or module.names)[0]
        if not settings.adapts(name, module.layer):
            return
        rank = settings.rank_of(name)
        down = self._require(f"{_ROOT}{name}{_DOWN}", (rank, module.inputs))
        up = self._require(f"{_ROOT}{name}{_UP}", (module.outputs, rank))
        for held in module.held:
            outputs = len(range(module.outputs)[held.rows])
            self.shapes |= {f"{held.name}.down": (rank, module.inputs), f"{held.name}.up": (rank, outputs)}
            self.scales[held.name] = settings.scale_of(name)
            self._factors |= {f"{held.name}.down": _Factor(down, None), f"{held.name}.up": _Factor(up, held)}

    def _require(self, tensor: str, shape: Shape) -> str:
        actual = self._file.shapes.get(tensor)
        if actual is None:
            raise DataLoss(f"{self.path} has no tensor {tensor}; expected shape {list(shape)}", field="adapters")
        if actual != shape:
            raise DataLoss(
                f"{self._file.describe(tensor)} must have shape {list(shape)}, found {list(actual)}", field="adapters"
            )
        return tensor

    def _refuse_unused(self) -> None:
        used = {factor.tensor for factor in self._factors.values()}
        unused = [name for name in self._file.shapes if name not in used]
        if unused:
            more = f" (nor are {len(unused) - 1} others)" if unused[1:] else ""
            raise DataLoss(
                f"{self._file.describe(unused[0])} is not used: adapters are served of the linears of grouped-query "
                f"attention, feed-forward blocks and shared experts that target_modules names{more}",
                field="adapters",
            )
        if not used:
            raise DataLoss(f"{self.path} adapts nothing of this model", field="adapters")


def _weights(folder: Path) -> Path:
    path = folder / WEIGHTS
    if path.is_file():
        return path
    if (folder / "adapter_model.bin").is_file():
        raise Unimplemented(
            f"{folder} stores its weights as adapter_model.bin; only safetensors are read", field="adapters"
        )
    raise NotFound(f"{folder} has no {WEIGHTS}", field="adapters")
