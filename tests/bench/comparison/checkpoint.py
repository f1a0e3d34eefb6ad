"""The built-in model in the two forms that the contestants read."""

import json
import shutil
from pathlib import Path

import torch
from comparison.contestants import Models
from safetensors.torch import save_file

from triptych.models.cache import build_folder, cache_directory
from triptych.models.config import read_config
from triptych.models.files import ModelFiles
from triptych.models.gguf_source import GgufSource
from triptych.models.resolve import resolve
from triptych.models.tokenizer import tokenizer_folder


def prepare() -> Models:
    """Fetches builtin:smollm2 and writes its bfloat16 folder into the cache, each if it is not there yet."""
    files = resolve("builtin:smollm2")
    folder = build_folder(cache_directory() / "bench" / "smollm2-bf16", lambda target: _export(files, target))
    return Models(folder, files.path)


def _export(files: ModelFiles, folder: Path) -> None:
    source = GgufSource(files.path)
    tensors = {
        name: torch.tensor(source.read(name, 0, shape[0])).to(torch.bfloat16) for name, shape in source.shapes.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {**read_config(files), "dtype": "bfloat16"}
    ends = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps(ends, indent=1), encoding="utf-8")
    tokenizer = tokenizer_folder(files)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)
