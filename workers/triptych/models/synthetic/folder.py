"""Writes a synthetic mixture as a checkpoint: a shard per layer, in bounded memory, as fast as the disk takes it."""

import json
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from triptych.models.cache import build_folder, cache_directory, require_space
from triptych.models.files import CONFIG, INDEX
from triptych.models.page_cache import forget_pages
from triptych.models.progress import SILENT, Advance, Progress
from triptych.models.safetensors_header import plan_file
from triptych.models.synthetic.noise import Noise
from triptych.models.synthetic.shape import CODE, RESERVED, SyntheticShape
from triptych.models.synthetic.walk import Walk, draw_router

_HEAD = 10.0  # how far the likeliest token is ahead, about: never in doubt, and never quite certain
_ATTENTION, _EXPERT = 0.3, 0.5  # what a block adds, in widths of what it reads: enough to be seen, too little to grow

_Rows = tuple[Tensor, ...]
"""A tensor in pieces that follow each other; those of noise are views, so that a layer takes no memory."""


def synthetic(size: str, *, seed: int = 7, progress: Progress = SILENT) -> Path:
    """Returns the folder of a mixture of this size, such as 8GB, writing it at first use.

    Raises:
        InvalidArgument: the size is none.
        ResourceExhausted: the disk has no room.
    """
    shape = SyntheticShape.parse(size)
    target = cache_directory() / "synthetic" / f"{size}-{seed}"

    def build(folder: Path) -> None:
        title = f"Writing a synthetic mixture of {size}"
        require_space(folder, shape.expert_bytes, title)
        with progress.task(title, shape.expert_bytes) as advance:
            _Writer(folder, shape, seed).write(advance)

    return build_folder(target, build)


class _Writer:
    def __init__(self, folder: Path, shape: SyntheticShape, seed: int) -> None:
        self._folder, self._shape = folder, shape
        self._random = torch.Generator().manual_seed(seed)
        self._noise = Noise(self._random, most=max(shape.vocabulary, shape.width, shape.hidden) * shape.hidden)

    def write(self, advance: Advance) -> None:
        """All files."""
        shape, places = self._shape, dict[str, str]()
        for number in range(-1, shape.layers):
            name = "ends.safetensors" if number < 0 else f"layer-{number:03}.safetensors"
            tensors = self._ends() if number < 0 else self._layer(number)
            places |= dict.fromkeys(tensors, name)
            _write_shard(self._folder / name, tensors)
            advance(shape.expert_bytes // shape.layers if number >= 0 else 0)
        index = {"metadata": {}, "weight_map": places}
        (self._folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
        (self._folder / CONFIG).write_text(json.dumps(shape.config, indent=1), encoding="utf-8")
        words = Tokenizer(models.WordLevel({str(token): token for token in range(shape.vocabulary)}, unk_token="0"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        words.save(str(self._folder / "tokenizer.json"))

    def _ends(self) -> dict[str, _Rows]:
        shape = self._shape
        walk = Walk.draw(shape.vocabulary, self._random)
        embedding = self._noise.matrix(shape.vocabulary, shape.hidden, 1.0).clone()
        embedding[:, :CODE] = walk.codes
        embedding[:, CODE] = 1.0
        head = self._noise.matrix(shape.vocabulary, shape.hidden, 0.005).clone()
        head[:, :CODE] = _HEAD * walk.codes.roll(1, 0)
        return {
            "model.embed_tokens.weight": (embedding,),
            "model.norm.weight": (torch.ones(shape.hidden, dtype=torch.bfloat16),),
            "lm_head.weight": (head,),
        }

    def _layer(self, number: int) -> dict[str, _Rows]:
        shape, layer = self._shape, f"model.layers.{number}"
        keys = shape.hidden // 4
        router = torch.zeros(shape.experts, shape.hidden, dtype=torch.bfloat16)
        router[:, :RESERVED] = draw_router(shape.experts, self._random)
        tensors: dict[str, _Rows] = {f"{layer}.block_sparse_moe.gate.weight": (router,)}
        for name, outputs in (("q", shape.hidden), ("k", keys), ("v", keys)):
            tensors[f"{layer}.self_attn.{name}_proj.weight"] = self._reading(outputs, shape.hidden)
        tensors[f"{layer}.self_attn.o_proj.weight"] = self._writing(shape.hidden, _ATTENTION)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{layer}.{name}.weight"] = (torch.ones(shape.hidden, dtype=torch.bfloat16),)
        for expert in (f"{layer}.block_sparse_moe.experts.{e}" for e in range(shape.experts)):
            tensors[f"{expert}.w1.weight"] = self._reading(shape.width, shape.hidden)
            tensors[f"{expert}.w3.weight"] = self._reading(shape.width, shape.hidden)
            tensors[f"{expert}.w2.weight"] = self._writing(shape.width, _EXPERT)
        return tensors

    def _reading(self, outputs: int, inputs: int) -> _Rows:
        return (self._noise.matrix(outputs, inputs, inputs**-0.5),)

    def _writing(self, inputs: int, gain: float) -> _Rows:
        """[H, inputs] that leaves the reserved dimensions alone."""
        silent = torch.zeros(RESERVED, inputs, dtype=torch.bfloat16)
        return silent, self._noise.matrix(self._shape.hidden - RESERVED, inputs, gain * inputs**-0.5)


def _write_shard(path: Path, tensors: Mapping[str, _Rows]) -> None:
    shapes = {name: (sum(map(len, rows)), *rows[0].shape[1:]) for name, rows in tensors.items()}
    head, placed = plan_file(path, {name: ("BF16", shape) for name, shape in shapes.items()})
    with path.open("wb") as file:
        file.write(head)
        for piece in chain.from_iterable(tensors[name] for name in placed):
            file.write(piece.view(torch.uint8).numpy().data)
    forget_pages(path)
