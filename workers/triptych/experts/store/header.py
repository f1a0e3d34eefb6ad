"""The bytes of a packed file around its blobs.

A page of header (magic, version, where the index lies and its checksum), blobs from the second page on, the index
behind the last of them: JSON, then a checksum of eight bytes for every piece of a blob, then zeros up to a page. The
last eight bytes of the header's page are the checksum of the rest of it, the index's covers all of the index: with
those of the blobs, no byte of a file can change unnoticed. Numbers are little-endian.
"""

import json
import struct
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import xxhash

from triptych.core.errors import DataLoss
from triptych.experts.blob import PAGE
from triptych.experts.store.layouts import layer_from_json, layer_to_json
from triptych.experts.store.packed import Checksums, PackedLayer, PackedStore

VERSION = 3
"""Of all that files say, and how; those of another are built anew."""
_MAGIC = b"TRIPTYCX"
_FIELDS = struct.Struct("<8sIxxxxQQQQ")
_CHECKSUM = struct.Struct("<Q")
_LARGEST_INDEX = 1 << 30


@dataclass(frozen=True, slots=True)
class Header:
    """Where the index is.

    Attributes:
        start: First byte of the index; pages.
        text: Bytes of its JSON.
        nbytes: Of the index; pages. The file ends with it.
        checksum: XXH64 of it.
    """

    start: int
    text: int
    nbytes: int
    checksum: int

    def encode(self) -> bytes:
        """The first page of a file."""
        fields = _FIELDS.pack(_MAGIC, VERSION, self.start, self.text, self.nbytes, self.checksum)
        page = fields.ljust(PAGE - _CHECKSUM.size, b"\0")
        return page + _CHECKSUM.pack(xxhash.xxh64_intdigest(page))

    @classmethod
    def decode(cls, path: Path, page: bytes) -> "Header":
        """Of the first page of a file.

        Raises:
            DataLoss: it is not one, or damaged, or of another version.
        """
        if len(page) < PAGE or not page.startswith(_MAGIC):
            raise DataLoss(f"{path} is not a pack of experts")
        _, version, start, text, nbytes, checksum = _FIELDS.unpack_from(page)
        if _CHECKSUM.pack(xxhash.xxh64_intdigest(page[: -_CHECKSUM.size])) != page[-_CHECKSUM.size :]:
            raise DataLoss(f"{path}: its header is damaged")
        if version != VERSION:
            raise DataLoss(f"{path} is a pack of experts of version {version}, this is version {VERSION}")
        return cls(start, text, nbytes, checksum)


def outdated(path: Path) -> bool:
    """Whether a file is a pack of an earlier version, which nobody can read who has this one."""
    try:
        with path.open("rb") as file:
            start = file.read(_FIELDS.size)
    except OSError:
        return False
    if len(start) < _FIELDS.size or not start.startswith(_MAGIC):
        return False
    _, version, *_ = _FIELDS.unpack(start)
    return bool(version < VERSION)


def encode(layers: tuple[PackedLayer, ...], sums: tuple[tuple[Checksums, ...], ...]) -> tuple[Header, bytes]:
    """The header and the index [pages] of a file with these blobs."""
    text = json.dumps([layer_to_json(layer) for layer in layers], separators=(",", ":")).encode()
    every = [number for layer in sums for blob in layer for number in blob]
    content = text + np.array(every, dtype="<u8").tobytes()
    content = content.ljust(-(-len(content) // PAGE) * PAGE, b"\0")
    header = Header(blobs_end(layers), len(text), len(content), xxhash.xxh64_intdigest(content))
    return header, content


def index_bytes(layers: tuple[PackedLayer, ...]) -> int:
    """Of the index of a file with these layers; pages."""
    _, content = encode(layers, tuple(((0,) * len(layer.pieces),) * layer.experts for layer in layers))
    return len(content)


def blobs_end(layers: tuple[PackedLayer, ...]) -> int:
    """Where the last blob ends."""
    return max((layer.offset + layer.nbytes for layer in layers), default=PAGE)


def open_store(path: Path) -> PackedStore:
    """Reads what a packed file says of itself; no blob is read.

    Raises:
        DataLoss: it is not there, cut short, damaged, or of another version.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            header = Header.decode(path, file.read(PAGE))
            if header.start + header.nbytes != size or header.nbytes > _LARGEST_INDEX:
                wanted = header.start + header.nbytes
                raise DataLoss(f"{path} is cut short or torn: it has {size:,} bytes, {wanted:,} were written")
            file.seek(header.start)
            content = file.read(header.nbytes)
    except OSError as error:
        raise DataLoss(f"{path} cannot be read: {error.strerror}") from error
    if xxhash.xxh64_intdigest(content) != header.checksum:
        raise DataLoss(f"{path}: its index is damaged")
    layers = tuple(layer_from_json(entry) for entry in json.loads(content[: header.text]))
    return PackedStore(path, layers, _sums(layers, content[header.text :]))


def _sums(layers: tuple[PackedLayer, ...], content: bytes) -> tuple[tuple[Checksums, ...], ...]:
    counts = [len(layer.pieces) for layer in layers]
    every = sum(layer.experts * count for layer, count in zip(layers, counts, strict=True))
    numbers = iter(np.frombuffer(content, "<u8", every).tolist())
    return tuple(
        tuple(tuple(islice(numbers, count)) for _ in range(layer.experts))
        for layer, count in zip(layers, counts, strict=True)
    )
