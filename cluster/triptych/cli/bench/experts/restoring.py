"""A benchmark leaves what it did not make as it was."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def put_back(path: Path) -> Iterator[None]:
    """A file that others own: whatever is written to it meanwhile, it is afterwards as before, or absent as before.

    Args:
        path: A small file.
    """
    before = path.read_bytes() if path.exists() else None
    try:
        yield
    finally:
        if before is None:
            path.unlink(missing_ok=True)
        else:
            descriptor, name = tempfile.mkstemp(prefix=path.name, suffix=".partial", dir=path.parent)
            with os.fdopen(descriptor, "wb") as file:
                file.write(before)
            Path(name).replace(path)
