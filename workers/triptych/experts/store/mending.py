"""Writing one blob of a packed file again, where others read it."""

import os
from collections.abc import Callable

from triptych.core.errors import DataLoss
from triptych.experts.store.direct import open_direct, pages
from triptych.experts.store.packed import PackedStore
from triptych.experts.store.reading import read_blob
from triptych.experts.store.writing import Read, pack_blob

Mend = Callable[[int, int], PackedStore]
"""Sees to it that an expert, by layer and number, can be read; what is to be opened from now on.

The file may be another one under the same name: whoever has it open opens it again. Blocks while it reads the
checkpoint, for the time of a whole file at worst; any thread and any process may call it.

Raises:
    DataLoss: the checkpoint is gone, or no longer gives what was packed.
    ResourceExhausted: the disk has no room.
"""


def mend_blob(store: PackedStore, layer: int, expert: int, read: Read) -> bool:
    """Writes a blob again unless it is as it was written: whether that was necessary.

    Those who read it at the same time see old bytes or right ones; bytes that were right stay as they are. To be
    called by one process at a time.

    Raises:
        DataLoss: `read` gives something else than was packed.
        OSError: the disk does not write.
    """
    try:
        read_blob(store, layer, expert)
    except DataLoss:
        pass
    else:
        return False
    packed = store.layers[layer]
    blob = pages(packed.layout.nbytes)
    found = pack_blob(packed, read(layer, expert), blob, f"expert {expert} of mixture {layer}")
    if found != store.checksums(layer, expert):
        raise DataLoss(
            f"{store.path}: expert {expert} of mixture {layer} is damaged, and cannot be mended: the checkpoint has "
            "changed since it was packed; start again to pack what it is now"
        )
    with open_direct(store.path, os.O_WRONLY) as file:
        file.write(blob, store.offset(layer, expert))
        file.sync()
    return True
