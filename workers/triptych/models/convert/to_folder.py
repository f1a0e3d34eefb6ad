"""A GGUF file as a Hugging Face folder."""

import json
import shutil
from pathlib import Path
from typing import Any

from triptych.models.cache import MANIFEST
from triptych.models.config import GENERATION_CONFIG
from triptych.models.conversion import write_tensors
from triptych.models.convert.same import require_same_model
from triptych.models.files import CONFIG, WEIGHTS, ModelFiles
from triptych.models.gguf_config import config_from_gguf
from triptych.models.gguf_header import read_header
from triptych.models.gguf_source import GgufSource
from triptych.models.progress import Progress
from triptych.models.safetensors_header import plan_file
from triptych.models.tokenizer import tokenizer_folder

_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def write_folder(files: ModelFiles, folder: Path, kind: str, progress: Progress) -> None:
    """Writes configuration, tokenizer and weights.

    Args:
        files: The GGUF file.
        folder: Does not exist yet.
        kind: Element type, as safetensors names it.
        progress: Told about bytes.
    """
    source, config = GgufSource(files.path), config_from_gguf(read_header(files.path))
    folder.mkdir(parents=True)
    ends = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write_json(folder / CONFIG, config | {"dtype": _DTYPES[kind]})
    _write_json(folder / GENERATION_CONFIG, {name: value for name, value in ends.items() if value is not None})
    for path in tokenizer_folder(files, progress=progress).iterdir():
        if path.name != MANIFEST:
            shutil.copy(path, folder)
    _, placed = plan_file(folder / WEIGHTS, {name: (kind, shape) for name, shape in source.shapes.items()})
    size = sum(extent.nbytes for extent in placed.values())
    with progress.task(f"Converting {files.path.name} to {kind}", size) as advance:
        write_tensors(folder / WEIGHTS, source, list(source.shapes), kind, advance)
    require_same_model(files, ModelFiles(files.name, folder, "safetensors"))


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
