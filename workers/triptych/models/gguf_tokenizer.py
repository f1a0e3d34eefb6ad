"""Writes the tokenizer of a GGUF as a Hugging Face folder: `python -m triptych.models.gguf_tokenizer GGUF FOLDER`."""

import sys
from pathlib import Path

from transformers import AutoTokenizer


def main(source: Path, folder: Path) -> None:
    """Lets transformers convert tokens, merges, special tokens and chat template."""
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, local_files_only=True)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
