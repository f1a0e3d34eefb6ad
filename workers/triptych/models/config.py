"""The configuration of a model as one Hugging Face config dict, whatever the files are."""

import json
from pathlib import Path
from typing import Any

from triptych.core.errors import DataLoss
from triptych.models.files import CONFIG, ModelFiles, reading
from triptych.models.gguf_config import config_from_gguf
from triptych.models.gguf_header import read_header

GENERATION_CONFIG = "generation_config.json"


def read_config(files: ModelFiles) -> dict[str, Any]:
    """Reads config.json, or builds its like from GGUF metadata.

    `eos_token_id` of generation_config.json wins: chat models name the end of a turn only there.

    Raises:
        NotFound: the folder has no config.json.
        DataLoss: a file is broken; the message names it and the line.
        Unimplemented: a GGUF architecture that is not read.
    """
    if files.format == "gguf":
        return config_from_gguf(read_header(files.path))
    config = read_json(files.path / CONFIG)
    generation = files.path / GENERATION_CONFIG
    if generation.is_file() and (ends := read_json(generation).get("eos_token_id")) is not None:
        config["eos_token_id"] = ends
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        NotFound, FailedPrecondition: there is no such file, or it may not be read.
        DataLoss: not UTF-8, not JSON (with the line), or not an object.
    """
    with reading(path):
        raw = path.read_bytes()
    try:
        value = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataLoss(f"{path} is not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise DataLoss(f"{path}, line {error.lineno}: {error.msg}") from None
    except RecursionError:
        raise DataLoss(f"{path} is nested too deeply") from None
    if not isinstance(value, dict):
        raise DataLoss(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value
