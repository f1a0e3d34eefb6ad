"""From what a user calls a model to files on this host."""

import re
from pathlib import Path

from triptych.core.errors import FailedPrecondition, NotFound
from triptych.models import builtin, hub
from triptych.models.files import ModelFiles, local_files
from triptych.models.progress import SILENT, Progress

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def resolve(model: str, *, progress: Progress = SILENT) -> ModelFiles:
    """Finds a model's files, fetching them if need be.

    Args:
        model: A folder in Hugging Face layout, a `.gguf` file, a hub id `org/name`, or `builtin:NAME`. What exists
            on the disk wins over a hub id of the same spelling.
        progress: Told about downloads and conversions.

    Raises:
        NotFound: nothing has that name.
        Unavailable: it has to be fetched, and the network or the hub cannot be reached.
        FailedPrecondition: the hub wants a login or an accepted licence; or pip is missing.
        InvalidArgument, Unimplemented, DataLoss: what was found is not a model that can be read.
    """
    if model.startswith(builtin.SCHEME):
        return builtin.fetch(model, progress)
    path = _existing(model)
    if path is not None:
        return local_files(model, path)
    if _HUB_ID.fullmatch(model) and not model.lower().endswith(".gguf"):
        return hub.fetch(model, progress)
    raise NotFound(
        f"there is no model {model!r:.200}: give a folder, a .gguf file, a hub id such as org/name, or one of "
        f"{', '.join(builtin.NAMES)}",
        field="model",
    )


def _existing(model: str) -> Path | None:
    try:
        path = Path(model).expanduser()
        return path if model and path.exists() else None
    except PermissionError as error:
        raise FailedPrecondition(f"{error.filename} may not be read by this user", field="model") from None
    except (OSError, ValueError, RuntimeError):  # too long, or no such home: nothing that could be a path
        return None
