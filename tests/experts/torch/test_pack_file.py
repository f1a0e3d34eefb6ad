"""What threads have read of a packed file, as others see it at any moment."""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

from tests.support.offloading import no_mend
from tests.support.random_experts import make
from triptych.experts.store.direct import pages
from triptych.experts.torch.pack_file import PackFile


def test_no_moment_shows_a_read_without_its_bytes(tmp_path: Path) -> None:
    """Whoever looks sees both, whichever line the reader is at."""
    made = make(tmp_path / "pack", ("bfloat16", 2))
    file, size = PackFile(made.store, no_mend), made.store.blob_bytes
    seen: set[tuple[int, ...]] = set()

    def look(frame: FrameType, event: str, arg: object) -> Any:
        seen.add(tuple(file.counts))
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        for expert in range(2):
            file.read(0, expert, pages(size))
    finally:
        sys.settrace(before)

    assert tuple(file.counts) == (2, 2 * size)
    assert seen == {(reads, reads * size) for reads in range(3)}
