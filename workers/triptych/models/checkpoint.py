"""The weight files of a model: one GGUF, one safetensors file, or shards with an index."""

from collections.abc import Mapping
from pathlib import Path

from triptych.core.errors import DataLoss, NotFound
from triptych.models.config import read_config, read_json
from triptych.models.extent import Extent
from triptych.models.files import INDEX, WEIGHTS, ModelFiles
from triptych.models.gguf_pieces import RowOrder
from triptych.models.gguf_source import GgufSource
from triptych.models.packed import unpacked
from triptych.models.sources import FloatArray, Plain, SafetensorsSource, Shapes, Source


def open_checkpoint(files: ModelFiles, order: RowOrder = "hugging_face") -> Source:
    """All tensors of a model, by Hugging Face name, packed ones as plain ones.

    Args:
        files: The model.
        order: Of the rows of q and k in a GGUF file.

    Raises:
        NotFound: there are no weights.
        DataLoss: a file or the index of the shards is damaged.
        Unimplemented: they are packed in a way that is not read.
    """
    if files.format == "gguf":
        return GgufSource(files.path, order)
    return unpacked(open_safetensors(files.path), read_config(files))


def open_safetensors(folder: Path) -> Plain:
    """The tensors of a folder in Hugging Face layout as they are stored; raises as `open_checkpoint` does."""
    whole = folder / WEIGHTS
    return SafetensorsSource(whole) if whole.is_file() else ShardedSource(folder, _weight_map(folder))


class ShardedSource:
    """Several safetensors files, each opened when a tensor of it is first asked for.

    Every method raises NotFound when that shard is missing and DataLoss when it is damaged or lacks the tensor.

    Args:
        path: The folder.
        shards: The file that holds each tensor.
    """

    interleaved = False

    def __init__(self, path: Path, shards: Mapping[str, Path]) -> None:
        self.path = path
        self.files = tuple(dict.fromkeys(shards.values()))
        self.shapes = Shapes(shards.keys(), lambda name: self._shard(name).shapes[name])
        self._shards = shards
        self._opened: dict[Path, SafetensorsSource] = {}

    def describe(self, name: str) -> str:
        """The shard and the tensor."""
        return f"{self._shards[name]}: tensor {name}"

    def stored(self, name: str) -> Extent:
        """Where the tensor lies, whatever its type."""
        return self._shard(name).stored(name)

    def extent(self, name: str, dtype: str) -> Extent | None:
        """Where the tensor lies, if it is stored as `dtype` or holds integers."""
        return self._shard(name).extent(name, dtype)

    def blocks(self, name: str) -> None:
        """The format has none."""

    def origin(self, name: str) -> str:
        """Its name."""
        return name

    def read(self, name: str, start: int, stop: int) -> FloatArray:
        """Rows [start, stop)."""
        return self._shard(name).read(name, start, stop)

    def _shard(self, name: str) -> SafetensorsSource:
        path = self._shards[name]
        if path not in self._opened:
            if not path.is_file():
                raise NotFound(f"{self.path} has no shard {path.name}, which {INDEX} names", field="model")
            self._opened[path] = SafetensorsSource(path)
        if name not in self._opened[path].shapes:
            raise DataLoss(f"{path} has no tensor {name}, which {INDEX} places there")
        return self._opened[path]


def _weight_map(folder: Path) -> dict[str, Path]:
    index = folder / INDEX
    if not index.is_file():
        raise NotFound(f"{folder} has no weights: expected {WEIGHTS} or {INDEX}", field="model")
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise DataLoss(f"{index} has no weight_map")
    for name, place in places.items():
        if not isinstance(place, str) or Path(place).name != place:
            raise DataLoss(f"{index} places tensor {name} in {place!r}, expected the name of a file beside it")
    return {name: folder / place for name, place in places.items()}
