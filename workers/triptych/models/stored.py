"""Where the parts of a weight lie in files, for each form that kernels read. No torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from triptych.models.extent import Extent

BlockKind = Literal["Q4_0", "Q4_1", "Q8_0", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
BLOCK_KINDS: tuple[BlockKind, ...] = get_args(BlockKind)
"""What `triptych.kernels.weights` reads."""


@dataclass(frozen=True, slots=True)
class StoredInt8:
    """The arrays of an `Int8Weight`."""

    values: Extent
    scales: Extent
    inputs: int

    @property
    def path(self) -> Path:
        """The file that holds both."""
        return self.values.path

    @property
    def shape(self) -> tuple[int, int]:
        """[O, I] of the matrix."""
        return self.scales.shape[0], self.inputs


@dataclass(frozen=True, slots=True)
class StoredBlocks:
    """The rows of a `GgufWeight`."""

    blocks: Extent
    kind: BlockKind
    inputs: int

    @property
    def path(self) -> Path:
        """The GGUF file."""
        return self.blocks.path

    @property
    def shape(self) -> tuple[int, int]:
        """[O, I] of the matrix."""
        return self.blocks.shape[0], self.inputs


Stored = Extent | StoredInt8 | StoredBlocks
