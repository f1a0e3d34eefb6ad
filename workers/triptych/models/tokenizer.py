"""The tokenizer of a model as a folder that transformers and tokenizers read."""

import os
import subprocess
import sys
from pathlib import Path

from triptych.core.errors import DataLoss, NotFound, Unimplemented
from triptych.models.cache import build_folder, cache_directory, file_key
from triptych.models.files import ModelFiles
from triptych.models.gguf_header import read_header
from triptych.models.progress import SILENT, Progress

_VERSION = 2  # of the meaning of converted tokenizers
_KNOWN = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


def tokenizer_folder(files: ModelFiles, *, progress: Progress = SILENT) -> Path:
    """The folder with tokenizer and chat template: the model's own, or one made from the GGUF and kept in the cache.

    Raises:
        NotFound: the model folder has no tokenizer.
        DataLoss: the GGUF has none.
        Unimplemented: the GGUF's kind of tokenizer cannot be converted.
    """
    if files.format == "safetensors":
        if not any((files.path / name).is_file() for name in _KNOWN):
            raise NotFound(f"{files.path} has no tokenizer: expected {_KNOWN[0]}", field="model")
        return files.path
    source = files.path
    if "tokenizer.ggml.tokens" not in read_header(source).metadata:
        raise DataLoss(f"{source} has no tokenizer: metadata tokenizer.ggml.tokens is missing")

    def build(folder: Path) -> None:
        with progress.task(f"Converting the tokenizer of {source.name}", None):
            convert_tokenizer(source, folder)

    return build_folder(cache_directory() / "tokenizers" / f"{source.stem}-{_VERSION}-{file_key(source)}", build)


def convert_tokenizer(source: Path, folder: Path) -> None:
    """Writes the tokenizer of a GGUF file into a folder.

    In a process of its own: transformers loads torch to do it, and the caller may have to do without.

    Raises:
        Unimplemented: this kind of tokenizer cannot be converted.
    """
    done = subprocess.run(
        [sys.executable, "-m", "triptych.models.gguf_tokenizer", str(source), str(folder)],
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise Unimplemented(f"the tokenizer of {source} cannot be converted: {reason:.300}", field="model")
