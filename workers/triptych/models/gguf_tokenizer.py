"""Writes the tokenizer of a GGUF as a Hugging Face folder: `python -m triptych.models.gguf_tokenizer GGUF FOLDER`."""

import sys
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer, get_gguf_tokenizer

from triptych.models.gguf_header import read_header
from triptych.models.gguf_pretokenizer import correct, defaults


def main(source: Path, folder: Path) -> None:
    """Lets transformers convert tokens, merges, special tokens and chat template, whatever the architecture."""
    header = read_header(source)
    architecture, described, settings = get_gguf_tokenizer(str(source))
    backend, _ = convert_gguf_tokenizer(architecture, described)
    correct(backend, header)
    kind: Any = PreTrainedTokenizerFast  # its constructor is not annotated
    kind(tokenizer_object=backend, **(defaults(header) | settings)).save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
