"""A recording as a file: a compressed .npz, whose every part zip has a checksum of."""

import json
import os
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from triptych.core.errors import DataLoss, FailedPrecondition, NotFound
from triptych.experts.traces.routes import Foreseen, Routes, TracedModel

_FORM: Final = "triptych routes 2"


def write_routes(path: Path, routes: Routes) -> None:
    """Writes a recording, complete or not at all.

    Raises:
        FailedPrecondition: the file cannot be written.
    """
    header = json.dumps({"form": _FORM, **asdict(routes.model)}).encode()
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(
                file,
                header=np.frombuffer(header, np.uint8),
                vocabulary=routes.vocabulary,
                embeddings=routes.embeddings,
                steps=routes.steps,
                tokens=routes.tokens,
                sequences=routes.sequences,
                positions=routes.positions,
                ids=routes.ids,
                foreseen=routes.foreseen.experts,
                chances=routes.foreseen.chances,
            )
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise FailedPrecondition(f"{path} cannot be written: {error.strerror}", field="out") from None


def read_routes(path: Path) -> Routes:
    """Reads a recording.

    Raises:
        NotFound: there is no such file.
        FailedPrecondition: it may not be read.
        DataLoss: it is torn, or no recording.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            parts = {name: file[name] for name in file.files}
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{path} does not exist", field="trace") from None
    except (PermissionError, IsADirectoryError) as error:
        raise FailedPrecondition(f"{path} cannot be read: {error.strerror}", field="trace") from None
    except (BadZipFile, zlib.error, OSError, ValueError, EOFError, AttributeError) as error:
        raise DataLoss(f"{path} is torn, or no recording: {error}", field="trace") from None
    try:
        return _checked(path, parts)
    except (KeyError, TypeError, ValueError) as error:
        raise DataLoss(f"{path} is no recording of routes: {error}", field="trace") from None


def _checked(path: Path, parts: dict[str, npt.NDArray[np.generic]]) -> Routes:
    header = json.loads(parts["header"].tobytes())
    if header.pop("form") != _FORM:
        raise DataLoss(f"{path} is not in the form {_FORM!r}; record it again", field="trace")
    model = TracedModel(**header)
    routes = Routes(
        model=model,
        vocabulary=parts["vocabulary"].astype(np.int32),
        embeddings=parts["embeddings"].astype(np.float16),
        steps=parts["steps"].astype(np.int64),
        tokens=parts["tokens"].astype(np.int32),
        sequences=parts["sequences"].astype(np.int32),
        positions=parts["positions"].astype(np.int32),
        ids=parts["ids"].astype(np.int32),
        foreseen=Foreseen(parts["foreseen"].astype(np.int32), parts["chances"].astype(np.float16)),
    )
    rows = int(routes.steps[-1])
    if routes.ids.shape != (model.layers, rows, model.top_k) or len(routes.tokens) != rows:
        raise DataLoss(f"{path}: {rows} rows, and routes of shape {list(routes.ids.shape)}", field="trace")
    if rows and not 0 <= routes.ids.min() <= routes.ids.max() < model.experts:
        raise DataLoss(f"{path} names experts beyond the {model.experts} of its model", field="trace")
    return routes
