"""builtin:smollm2-digits: SmolLM2 with a CLIP eye for handwritten digits, assembled into a LLaVA folder.

The eye (vision tower and projector) and the configuration are package data, the language model is that of
builtin:smollm2. Each is one shard, so that a worker that only encodes images never opens the other.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from triptych.models.cache import build_folder, require_space
from triptych.models.conversion import write_tensors
from triptych.models.files import INDEX, ModelFiles
from triptych.models.gguf_source import GgufSource
from triptych.models.progress import Progress
from triptych.models.sources import FloatArray, Rows, SafetensorsSource
from triptych.models.tokenizer import tokenizer_folder

DATA = Path(__file__).parent / "data" / "smollm2-digits"

_COPIED = ("config.json", "generation_config.json", "processor_config.json", "chat_template.jinja")
_IMAGE = "<image>"
_EMBEDDING = "model.embed_tokens.weight"
_PREFIX = "language_model."


def assemble(target: Path, language: ModelFiles, progress: Progress) -> Path:
    """Returns the checkpoint folder, assembling it at first use or when a file of it is gone or cut.

    Args:
        target: The folder.
        language: builtin:smollm2.
        progress: Told about it.

    Raises:
        ResourceExhausted: the disk has no room.
        DataLoss: the language model's file is damaged.
    """

    def build(folder: Path) -> None:
        sources: tuple[Rows, ...] = (SafetensorsSource(DATA / "eye.safetensors"), _WithImageToken(language.path))
        _write_shards(folder, sources, progress)
        for name in _COPIED:
            shutil.copyfile(DATA / name, folder / name)
        _write_tokenizer(folder, tokenizer_folder(language, progress=progress))

    return build_folder(target, build)


class _WithImageToken:
    """The language model under LLaVA's names, its vocabulary longer by the image token.

    The new row is zero: images overwrite the embedding, and in the tied head it gives the image token a logit of 0
    where the likeliest token has about 20.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._inner = GgufSource(path)
        self._rows = self._inner.shapes[_EMBEDDING][0]
        shapes = {**self._inner.shapes, _EMBEDDING: (self._rows + 1, *self._inner.shapes[_EMBEDDING][1:])}
        self.shapes: Mapping[str, tuple[int, ...]] = {_PREFIX + name: shape for name, shape in shapes.items()}

    def describe(self, name: str) -> str:
        """The file and what it calls the tensor."""
        return self._inner.describe(name.removeprefix(_PREFIX))

    def read(self, name: str, start: int, stop: int) -> FloatArray:
        """Rows [start, stop), the image token's being the last of the embedding."""
        inner = name.removeprefix(_PREFIX)
        if inner != _EMBEDDING or stop <= self._rows:
            return self._inner.read(inner, start, stop)
        rows = self._inner.read(inner, start, self._rows)
        return np.concatenate([rows, np.zeros_like(rows, shape=(1, *self.shapes[name][1:]))])


def _write_shards(folder: Path, sources: tuple[Rows, ...], progress: Progress) -> None:
    size = 2 * sum(int(np.prod(shape)) for source in sources for shape in source.shapes.values())
    require_space(folder, size, "Assembling builtin:smollm2-digits")
    places: dict[str, str] = {}
    with progress.task("Assembling builtin:smollm2-digits", size) as advance:
        for number, source in enumerate(sources, 1):
            shard = f"model-{number:05}-of-{len(sources):05}.safetensors"
            write_tensors(folder / shard, source, list(source.shapes), "BF16", advance)
            places |= dict.fromkeys(source.shapes, shard)
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")


def _write_tokenizer(folder: Path, plain: Path) -> None:
    """Copies SmolLM2's tokenizer and adds the image token after its last."""
    tokenizer = json.loads((plain / "tokenizer.json").read_text(encoding="utf-8"))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    token = json.loads((folder / "config.json").read_text(encoding="utf-8"))["image_token_index"]
    tokenizer["added_tokens"].append({"id": token, "content": _IMAGE, **flags, "special": True})
    settings = json.loads((plain / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings |= {"extra_special_tokens": [_IMAGE], "processor_class": "LlavaProcessor"}
    for name, value in (("tokenizer.json", tokenizer), ("tokenizer_config.json", settings)):
        (folder / name).write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
