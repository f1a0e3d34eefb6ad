"""The configuration of a model as one Hugging Face config dict, whatever the files are."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from triptych.core.errors import DataLoss, InvalidArgument, Unimplemented
from triptych.models.files import CONFIG, ModelFiles, reading
from triptych.models.gguf_config import config_from_gguf
from triptych.models.gguf_header import read_header

GENERATION_CONFIG = "generation_config.json"
_ADDED_TOKENS: Final = '"added_tokens":'


def read_config(files: ModelFiles) -> dict[str, Any]:
    """Reads config.json, or builds its like from GGUF metadata.

    `eos_token_id` of generation_config.json wins: chat models name the end of a turn only there. The tokenizer's own
    end of sequence is one more: some fine-tuned models have given a turn's end to it alone.

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
    if (own := _end_of_tokenizer(files.path)) is not None:
        sections = (config, config.get("text_config") or {})
        stated = (section.get("eos_token_id") for section in sections)
        known = next((ends for ends in stated if ends is not None), None)
        named = known if isinstance(known, list) else [] if known is None else [known]
        if own not in named:
            config["eos_token_id"] = [*named, own]
    return config


@contextmanager
def blaming(files: ModelFiles) -> Iterator[None]:
    """Says in which file the field lies that a recipe refuses."""
    path = files.path if files.format == "gguf" else files.path / CONFIG
    try:
        yield
    except (InvalidArgument, Unimplemented) as error:
        raise type(error)(f"{path}: {error.message.removeprefix('config: ')}", field=error.field) from None


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


def _end_of_tokenizer(folder: Path) -> int | None:
    """The id of `eos_token` of tokenizer_config.json; None where it names none, or one that no list of tokens has."""
    settings_path, tokens_path = folder / "tokenizer_config.json", folder / "tokenizer.json"
    if not settings_path.is_file():
        return None
    settings = read_json(settings_path)
    named = settings.get("eos_token")
    content = named.get("content") if isinstance(named, dict) else named
    if content is None:
        return None
    added = settings.get("added_tokens_decoder")
    if not isinstance(added, dict):
        added = _added_tokens(tokens_path)
    return next((int(i) for i, token in added.items() if token.get("content") == content), None)


def _added_tokens(path: Path) -> dict[str, dict[str, Any]]:
    """The added tokens of a tokenizer.json by their ids, without parsing its vocabulary and merges."""
    if not path.is_file():
        return {}
    with reading(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    start = text.find(_ADDED_TOKENS)
    if start < 0:
        return {}
    try:
        tokens, _ = json.JSONDecoder().raw_decode(text, text.index("[", start))
        return {str(token["id"]): token for token in tokens}
    except (ValueError, TypeError, KeyError, RecursionError):
        raise DataLoss(f"{path}: added_tokens is not a list of tokens with ids") from None
