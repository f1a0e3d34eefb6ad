"""Experts in one file, a blob each: written once per host, read at random."""

from triptych.experts.store.compact import NotCompact, compact_layout, in_twelve_bits
from triptych.experts.store.header import open_store, outdated
from triptych.experts.store.mending import Mend, mend_blob
from triptych.experts.store.packed import Checksums, PackedLayer, PackedStore, place
from triptych.experts.store.reading import faults, read_blob
from triptych.experts.store.rounding import expand, expand_section, rounded, rounded_layout
from triptych.experts.store.writing import Read, file_bytes, write_pack, xxh3

__all__ = [
    "Checksums",
    "Mend",
    "NotCompact",
    "PackedLayer",
    "PackedStore",
    "Read",
    "compact_layout",
    "expand",
    "expand_section",
    "faults",
    "file_bytes",
    "in_twelve_bits",
    "mend_blob",
    "open_store",
    "outdated",
    "place",
    "read_blob",
    "rounded",
    "rounded_layout",
    "write_pack",
    "xxh3",
]
