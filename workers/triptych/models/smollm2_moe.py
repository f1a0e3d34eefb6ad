"""builtin:smollm2-moe: SmolLM2 with its feed-forward blocks split into 32 experts, assembled into a Mixtral folder.

The delta is package data: which neuron went to which expert, routers, and a low-rank change of every projection. The
rest is builtin:smollm2.
"""

import re
import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from triptych.models.cache import build_folder, require_space
from triptych.models.conversion import write_tensors
from triptych.models.files import ModelFiles
from triptych.models.gguf_source import GgufSource
from triptych.models.progress import Progress
from triptych.models.sources import FloatArray, SafetensorsSource, Shape
from triptych.models.tokenizer import tokenizer_folder

DATA = Path(__file__).parent / "data" / "smollm2-moe"

_EXPERTS, _TOP_K = 32, 12
_COPIED = ("config.json", "generation_config.json")
_EXPERT = re.compile(r"(model\.layers\.\d+\.)block_sparse_moe\.experts\.(\d+)\.(w[123])\.weight")
_ROUTER = re.compile(r"(model\.layers\.\d+\.)block_sparse_moe\.gate\.weight")
_DENSE = {"w1": ("gate_proj", "g"), "w2": ("down_proj", "d"), "w3": ("up_proj", "u")}


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
        source = _Split(language.path)
        size = 2 * sum(int(np.prod(shape)) for shape in source.shapes.values())
        require_space(folder, size, "Assembling builtin:smollm2-moe")
        with progress.task("Assembling builtin:smollm2-moe", size) as advance:
            write_tensors(folder / "model.safetensors", source, list(source.shapes), "BF16", advance)
        plain = tokenizer_folder(language, progress=progress)
        for name in _COPIED:
            shutil.copyfile(DATA / name, folder / name)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copyfile(plain / name, folder / name)

    return build_folder(target, build)


class _Split:
    """The split model under Mixtral's names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._plain = GgufSource(path)
        self._delta = SafetensorsSource(DATA / "delta.safetensors")
        self._projected = lru_cache(maxsize=3)(self._project)
        self.shapes: Mapping[str, Shape] = self._shapes()

    def _shapes(self) -> dict[str, Shape]:
        shapes = {name: shape for name, shape in self._plain.shapes.items() if ".mlp." not in name}
        for name in (name for name in self._plain.shapes if name.endswith(".mlp.gate_proj.weight")):
            features, hidden = self._plain.shapes[name]
            mixture, inner = name.removesuffix("mlp.gate_proj.weight") + "block_sparse_moe.", features // _EXPERTS
            shapes[f"{mixture}gate.weight"] = (_EXPERTS, hidden)
            for expert in range(_EXPERTS):
                for part, shape in (("w1", (inner, hidden)), ("w2", (hidden, inner)), ("w3", (inner, hidden))):
                    shapes[f"{mixture}experts.{expert}.{part}.weight"] = shape
        return shapes

    def describe(self, name: str) -> str:
        """Where the tensor comes from."""
        return f"{self.path}: tensor {name}"

    def read(self, name: str, start: int, stop: int) -> FloatArray:
        """Rows [start, stop)."""
        if expert := _EXPERT.fullmatch(name):
            return self._expert(expert[1], int(expert[2]), expert[3])[start:stop]
        if router := _ROUTER.fullmatch(name):
            return self._delta.read(f"{router[1]}mlp.r", start, stop)
        plain, adapter = self._plain.read(name, start, stop), name.removesuffix("weight")
        if f"{adapter}a" not in self._delta.shapes:
            return plain
        return plain + self._change(adapter)[start:stop]

    def _expert(self, layer: str, expert: int, part: str) -> FloatArray:
        owners = self._delta.read(f"{layer}mlp.asg", 0, self._delta.shapes[f"{layer}mlp.asg"][0])
        neurons = np.flatnonzero(owners == expert)
        projection = self._projected(layer, part)
        # A token's weights sum to one, over experts that each had weight one.
        return projection[:, neurons] * np.float32(_TOP_K) if part == "w2" else projection[neurons]

    def _project(self, layer: str, part: str) -> npt.NDArray[np.float32]:
        """A dense projection with its change."""
        full, short = _DENSE[part]
        name = f"{layer}mlp.{full}.weight"
        plain = self._plain.read(name, 0, self._plain.shapes[name][0])
        return plain.astype(np.float32) + self._change(f"{layer}mlp.{short}.")

    def _change(self, adapter: str) -> npt.NDArray[np.float32]:
        down, up = (self._whole(f"{adapter}{end}") for end in ("a", "b"))
        return up @ down

    def _whole(self, name: str) -> npt.NDArray[np.float32]:
        return self._delta.read(name, 0, self._delta.shapes[name][0]).astype(np.float32)
