"""`convert`: a model in the other format, complete or not at all."""

import shutil
from pathlib import Path

from triptych.core.errors import AlreadyExists, InvalidArgument
from triptych.models.cache import require_space
from triptych.models.convert.to_folder import write_folder
from triptych.models.convert.to_gguf import write_file
from triptych.models.files import ModelFiles
from triptych.models.progress import SILENT, Progress

SAFETENSORS_KINDS = ("BF16", "F16", "F32")
GGUF_KINDS = (*SAFETENSORS_KINDS, "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")


def convert(files: ModelFiles, target: Path, kind: str = "BF16", *, progress: Progress = SILENT) -> None:
    """Writes a GGUF file as a Hugging Face folder, or a folder as a GGUF file; which, the target's name says.

    What is written is read again before it gets its name: it describes the same model, or there is an error.

    Args:
        files: The model.
        target: What to write; a name that ends with .gguf is a file, every other a folder.
        kind: How numbers are stored: one of `SAFETENSORS_KINDS`, or of `GGUF_KINDS` for a file, whose vectors stay
            float32.
        progress: Told about bytes.

    Raises:
        AlreadyExists: the target is there.
        InvalidArgument: the model is in that format already, or the kind is not one of the format's.
        Unimplemented: the target's format has no words for something of the model.
        ResourceExhausted: the disk has no room.
    """
    to_file = target.suffix.lower() == ".gguf"
    _check(files, target, kind, to_file)
    partial = target.with_name(target.name + ".partial")
    _remove(partial)
    require_space(target.parent, _size(files), f"Converting {files.path.name}", variable="the target")
    try:
        (write_file if to_file else write_folder)(files, partial, kind, progress)
        partial.rename(target)
    finally:
        _remove(partial)


def _check(files: ModelFiles, target: Path, kind: str, to_file: bool) -> None:
    if target.exists():
        raise AlreadyExists(f"{target} exists and is not overwritten", field="target")
    if to_file == (files.format == "gguf"):
        raise InvalidArgument(
            f"{files.name} is stored as {files.format} already; a GGUF file becomes a folder, and a folder a file "
            "whose name ends with .gguf",
            field="target",
        )
    if kind not in (kinds := GGUF_KINDS if to_file else SAFETENSORS_KINDS):
        raise InvalidArgument(f"the kind must be one of {', '.join(kinds)}, got {kind!r:.40}", field="kind")


def _size(files: ModelFiles) -> int:
    """Of the weights as they are: a guess of what they become, for a timely no."""
    paths = files.path.glob("*.safetensors") if files.path.is_dir() else (files.path,)
    return sum(path.stat().st_size for path in paths)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
