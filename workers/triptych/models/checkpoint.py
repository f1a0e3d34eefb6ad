"""The weight files of a model: one GGUF, one safetensors file, or shards with an index."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from triptych.core.errors import DataLoss, NotFound
from triptych.models.config import read_json
from triptych.models.files import INDEX, WEIGHTS, ModelFiles
from triptych.models.gguf_pieces import RowOrder
from triptych.models.gguf_source import GgufSource
from triptych.models.sources import SafetensorsSource, Source


def open_sources(
    files: ModelFiles, prefixes: tuple[str, ...] = (), order: RowOrder = "hugging_face"
) -> Iterator[tuple[Source, list[str]]]:
    """The files that hold tensors whose names start with one of `prefixes`, with those names.

    Args:
        files: The model.
        prefixes: Beginnings of names; none means all.
        order: Of the rows of q and k in a GGUF file.

    Raises:
        NotFound: a shard is missing.
        DataLoss: a file or the index of the shards is damaged.
    """
    if files.format == "gguf":
        whole: Source = GgufSource(files.path, order)
        yield whole, _wanted(whole.shapes, prefixes)
        return
    if (files.path / WEIGHTS).is_file():
        whole = SafetensorsSource(files.path / WEIGHTS)
        yield whole, _wanted(whole.shapes, prefixes)
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
