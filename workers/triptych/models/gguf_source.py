"""A GGUF file, seen as Hugging Face names and plain rows."""

from functools import cached_property
from pathlib import Path

import gguf.quants
import numpy as np
import numpy.typing as npt

from triptych.core.errors import Unimplemented
from triptych.models.extent import ITEM_BYTES, Extent
from triptych.models.gguf_config import config_from_gguf
from triptych.models.gguf_families import family_of
from triptych.models.gguf_header import GgufTensor, read_header
from triptych.models.gguf_metadata import Metadata
from triptych.models.gguf_pieces import Piece, RowOrder, pieces_of
from triptych.models.sources import FloatArray
from triptych.models.stored import BLOCK_KINDS, StoredBlocks


class GgufSource:
    """One GGUF file with names and values of a Hugging Face checkpoint; packed rows are unpacked as they are read.

    Args:
        path: The file.
        order: Of the rows of q and k in families whose conversion interleaved them. In llama.cpp's they are used as
            they lie, and the rotary embedding has to be its own (`interleaved`).

    Raises:
        NotFound, FailedPrecondition: there is no such file, or it may not be read.
        DataLoss: it is damaged, or metadata is missing.
        Unimplemented: an architecture that is not read, or a tensor without a place in it.
    """

    def __init__(self, path: Path, order: RowOrder = "hugging_face") -> None:
        header = read_header(path)
        family = family_of(Metadata(header))
        self.path = path
        self.files = (path,)
        self.interleaved = family.interleaved and order == "llama_cpp"
        self._pieces = pieces_of(header, family, config_from_gguf(header), order)
        self.shapes = {name: piece.shape for name, piece in self._pieces.items()}

    def describe(self, name: str) -> str:
        """The file, and what it calls the tensor."""
        return f"{self.path}: tensor {self._pieces[name].tensor.name}"

    def origin(self, name: str) -> str:
        """The file's tensor, and what is done to it."""
        return repr(self._pieces[name])

    def extent(self, name: str, dtype: str) -> Extent | None:
        """Where the tensor lies, if it is stored plainly as `dtype`, with these values and in the wanted order."""
        piece = self._pieces[name]
        if piece.tensor.type.name != dtype or dtype not in ITEM_BYTES or piece.heads or piece.shift:
            return None
        extent = Extent(self.path, piece.offset, piece.shape, dtype)
        return extent if extent.aligned else None

    def blocks(self, name: str) -> StoredBlocks | None:
        """Where a matrix lies whose blocks kernels read as they are; None for every other tensor."""
        piece = self._pieces[name]
        kind = next((kind for kind in BLOCK_KINDS if kind == piece.tensor.type.name), None)
        if kind is None or len(piece.shape) != 2 or piece.heads:
            return None
        outputs, inputs = piece.shape
        return StoredBlocks(Extent(self.path, piece.offset, (outputs, piece.tensor.row_bytes), "U8"), kind, inputs)

    def read(self, name: str, start: int, stop: int) -> FloatArray:
        """Rows [start, stop) in float32.

        Raises:
            Unimplemented: packed in a way that the gguf package cannot undo.
        """
        piece = self._pieces[name]
        packed, order = self._packed(piece), piece.places(start, stop)
        if len(piece.shape) == 1:  # a vector is one packed row
            values = self._unpacked(piece.tensor, packed).reshape(-1)[order]
        else:
            # Rows are packed one by one, so that reordering before unpacking is exact, and cheaper.
            values = self._unpacked(piece.tensor, packed[order]).reshape(stop - start, *piece.shape[1:])
        return values - np.float32(piece.shift) if piece.shift else values

    def _packed(self, piece: Piece) -> npt.NDArray[np.uint8]:
        tensor = piece.tensor
        raw = self._bytes[tensor.offset : tensor.offset + tensor.nbytes]
        return raw.reshape(-1, tensor.row_bytes)[piece.rows]

    def _unpacked(self, tensor: GgufTensor, packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        try:
            with np.errstate(all="ignore"):
                return np.asarray(gguf.quants.dequantize(packed, tensor.type), dtype=np.float32)
        except NotImplementedError:
            raise Unimplemented(
                f"{self.path}: tensor {tensor.name} is packed as {tensor.type.name}, which is not read", field="model"
            ) from None

    @cached_property
    def _bytes(self) -> npt.NDArray[np.uint8]:
        return np.memmap(self.path, mode="r")
