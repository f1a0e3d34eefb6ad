"""Weights of one model in one dtype, by Hugging Face name, mapped and shared between the processes of a host."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from triptych.core.errors import DataLoss, InvalidArgument, NotFound
from triptych.models.config import read_json
from triptych.models.conversion import convert
from triptych.models.extent import Extent
from triptych.models.files import INDEX, WEIGHTS, ModelFiles
from triptych.models.gguf_source import GgufSource
from triptych.models.mapping import map_file, view
from triptych.models.progress import SILENT, Progress
from triptych.models.sources import SafetensorsSource, Source

_SERVED = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class Weights:
    """Read-only tensors by name; see `open_weights`."""

    def __init__(self, extents: Mapping[str, Extent], origin: Path, opened: tuple[Path, ...]) -> None:
        self._extents = extents
        self._origin = origin
        self._mapped: dict[Path, torch.Tensor] = {}
        self.opened = opened

    @property
    def names(self) -> frozenset[str]:
        """Hugging Face names of all tensors that were asked for."""
        return frozenset(self._extents)

    def shape(self, name: str) -> tuple[int, ...]:
        """The full shape of a tensor.

        Raises:
            DataLoss: the checkpoint has no such tensor.
        """
        return self._extent(name).shape

    def tensor(self, name: str, rows: slice | None = None) -> torch.Tensor:
        """A tensor, or rows of its first dimension: a view of the mapped file that must not be written to.

        Pages are read when they are touched, so rows that are not asked for are never read.

        Raises:
            DataLoss: the checkpoint has no such tensor.
        """
        extent = self._extent(name)
        if extent.path not in self._mapped:
            self._mapped[extent.path] = map_file(extent.path)
        whole = view(self._mapped[extent.path], extent)
        return whole if rows is None else whole[rows]

    def close(self) -> None:
        """Lets the mappings go; tensors that were handed out keep theirs."""
        self._mapped.clear()

    def _extent(self, name: str) -> Extent:
        try:
            return self._extents[name]
        except KeyError:
            raise DataLoss(f"{self._origin} has no tensor {name}, which its config calls for") from None


def open_weights(
    files: ModelFiles, dtype: torch.dtype, prefixes: tuple[str, ...] = (), *, progress: Progress = SILENT
) -> Weights:
    """Opens the tensors whose names start with one of `prefixes` (all of them by default).

    Shards that hold none of them are not opened. Tensors stored in `dtype` are used where they lie; others are
    converted once into the cache; integers and booleans keep their type.

    Args:
        files: The model.
        dtype: float32, float16 or bfloat16.
        prefixes: Beginnings of Hugging Face names, as the checkpoint spells them.
        progress: Told about a conversion.

    Raises:
        NotFound: a shard is missing.
        DataLoss: a file is cut short or damaged; the message names file, tensor and expectation.
        Unimplemented: stored in a way that is not read.
        ResourceExhausted: the cache disk has no room for the conversion.
    """
    if dtype not in _SERVED:
        raise InvalidArgument(f"dtype must be float32, float16 or bfloat16, got {dtype}", field="dtype")
    extents: dict[str, Extent] = {}
    opened: list[Path] = []
    for source, names in _sources(files, prefixes):
        ready = {name: source.extent(name, _SERVED[dtype]) for name in names}
        rest = [name for name, extent in ready.items() if extent is None]
        extents |= {name: extent for name, extent in ready.items() if extent is not None}
        extents |= convert(source, rest, _SERVED[dtype], progress) if rest else {}
        opened.append(source.path)
    paths = dict.fromkeys((*opened, *(extent.path for extent in extents.values())))
    return Weights(extents, files.path, tuple(paths))


def _sources(files: ModelFiles, prefixes: tuple[str, ...]) -> Iterator[tuple[Source, list[str]]]:
    """The files that hold wanted tensors, with the names wanted from each."""
    if files.format == "gguf" or (files.path / WEIGHTS).is_file():
        source: Source = GgufSource(files.path) if files.format == "gguf" else SafetensorsSource(files.path / WEIGHTS)
        yield source, _wanted(source.shapes, prefixes)
        return
    for shard, names in _shards(files.path, prefixes).items():
        source = SafetensorsSource(shard)
        if absent := set(names) - source.shapes.keys():
            raise DataLoss(f"{shard} has no tensor {min(absent)}, which {INDEX} places there")
        yield source, names


def _shards(folder: Path, prefixes: tuple[str, ...]) -> dict[Path, list[str]]:
    index = folder / INDEX
    if not index.is_file():
        raise NotFound(f"{folder} has no weights: expected {WEIGHTS} or {INDEX}", field="model")
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise DataLoss(f"{index} has no weight_map")
    shards: dict[Path, list[str]] = {}
    for name in _wanted(places, prefixes):
        place = places[name]
        if not isinstance(place, str) or Path(place).name != place:
            raise DataLoss(f"{index} places tensor {name} in {place!r}, expected the name of a file beside it")
        shards.setdefault(folder / place, []).append(name)
    for shard in shards:
        if not shard.is_file():
            raise NotFound(f"{folder} has no shard {shard.name}, which {INDEX} names", field="model")
    return shards


def _wanted(names: Mapping[str, object], prefixes: tuple[str, ...]) -> list[str]:
    return [name for name in names if not prefixes or name.startswith(prefixes)]
