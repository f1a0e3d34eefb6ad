"""What a rank reads of a checkpoint: its own part, and no rows of others'."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from math import prod
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from triptych.core.errors import InvalidArgument
from triptych.kernels import ExpertProjection
from triptych.models.decoder import Decoder
from triptych.models.files import ModelFiles
from triptych.models.layout import decoder_tensors
from triptych.models.mapping import MappedFile
from triptych.models.quantization import Quantization
from triptych.models.recipes import find_recipe
from triptych.models.rotary import RotaryTable
from triptych.models.sharding import Columns, cuts
from triptych.models.spec import ModelSpec
from triptych.models.testing import PagedSequence
from triptych.models.workspace import Workspace
from triptych.parallel import Parallelism
from triptych.parallel.thread_group import thread_meshes

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2MoeForCausalLM"], "vocab_size": 256, "hidden_size": 128, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 64, "intermediate_size": 320,
    "moe_intermediate_size": 128, "shared_expert_intermediate_size": 192, "num_experts": 4, "num_experts_per_tok": 2,
    "mlp_only_layers": [1], "tie_word_embeddings": False, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture
def spec() -> ModelSpec:
    return find_recipe(CONFIG).read(CONFIG)


@pytest.fixture
def files(tmp_path: Path, spec: ModelSpec) -> ModelFiles:
    recipe, wanted = find_recipe(CONFIG), decoder_tensors(spec.decoder)
    tensors = {recipe.places(name)[0].name: torch.randn(shape) for name, shape in wanted.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return ModelFiles("tiny", tmp_path, "safetensors")


def tensors_of(part: object) -> Iterator[Tensor]:
    """Every tensor that an object is made of, buffers and tables aside."""
    match part:
        case Tensor():
            yield part
        case Workspace() | RotaryTable():
            return
        case ExpertProjection():
            yield from part.tensors
        case tuple() | list():
            for each in part:
                yield from tensors_of(each)
        case _ if is_dataclass(part):
            for each in fields(part):
                yield from tensors_of(getattr(part, each.name))


def held(decoder: Decoder) -> dict[tuple[int, int], Tensor]:
    """Its weights, each once."""
    return {(tensor.data_ptr(), tensor.nbytes): tensor for tensor in tensors_of(decoder)}


def pages(tensor: Tensor) -> tuple[int, int]:
    """Where the pages that it lies in begin, and their bytes."""
    start = tensor.data_ptr() // PAGESIZE * PAGESIZE
    return start, -(-(tensor.data_ptr() + tensor.nbytes) // PAGESIZE) * PAGESIZE - start


def mapped(tensor: Tensor) -> bool:
    """Whether it is a view of a file, whose storage is all of it."""
    return tensor.untyped_storage().nbytes() > 1 << 20


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_rank_has_views_of_its_rows_and_copies_of_its_columns(
    ranks: int, files: ModelFiles, spec: ModelSpec
) -> None:
    grid = Parallelism(tensor=ranks)
    whole = decoder_tensors(spec.decoder)
    for mesh in thread_meshes(grid, 1.0):
        decoder = Decoder.load(files, spec, torch.float32, mesh=mesh)
        own, local = cuts(spec.decoder, grid, mesh.rank), decoder_tensors(decoder.local)
        columns = {name for name, cut in own.items() if isinstance(cut, Columns) and name in whole}
        kept = held(decoder).values()
        copies = sum(tensor.nbytes for tensor in kept if not mapped(tensor))
        assert copies == 4 * sum(prod(local[name]) for name in columns)
        assert sum(tensor.nbytes for tensor in kept) == 4 * sum(map(prod, local.values()))
        assert sum(tensor.nbytes for tensor in kept) < 4 * sum(map(prod, whole.values())) / ranks * 1.4


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_disk_is_asked_for_no_rows_of_others(
    ranks: int, files: ModelFiles, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def read_ahead(mapped: MappedFile, run: range) -> None:
        asked.append((mapped.content.data_ptr() + run.start, len(run)))

    monkeypatch.setattr(MappedFile, "read_ahead", read_ahead)
    grid, whole = Parallelism(tensor=ranks), decoder_tensors(spec.decoder)
    for mesh in thread_meshes(grid, 1.0):
        asked.clear()
        decoder = Decoder.load(files, spec, torch.float32, mesh=mesh)
        views = [pages(tensor) for tensor in held(decoder).values() if mapped(tensor)]
        cut = cuts(spec.decoder, grid, mesh.rank)
        columns = [4 * prod(shape) for name, shape in whole.items() if isinstance(cut.get(name), Columns)]
        assert Counter(views) <= Counter(asked)
        narrow = sum(size for _, size in (Counter(asked) - Counter(views)).elements())  # gaps are less than a page
        assert len(asked) == len(views) + len(columns)
        assert sum(columns) / 2 < narrow < sum(columns) + 2 * PAGESIZE * len(columns)


def test_int8_tiles_are_shared_and_cut_without_growing(files: ModelFiles, spec: ModelSpec) -> None:
    def size(decoder: Decoder) -> int:
        return sum(tensor.nbytes for tensor in held(decoder).values() if tensor.dtype is torch.int8)

    form: Quantization = "int8"
    whole = size(Decoder.load(files, spec, torch.float32, quantization=form))
    parts = [
        size(Decoder.load(files, spec, torch.float32, quantization=form, mesh=mesh))
        for mesh in thread_meshes(Parallelism(tensor=2), 1.0)
    ]
    gates = 2 * 16 * 128  # one tile in each of two layers: how much of the shared expert, on every rank
    assert sum(parts) == whole + gates


def test_one_rank_copies_nothing(files: ModelFiles, spec: ModelSpec) -> None:
    decoder = Decoder.load(files, spec, torch.float32)
    assert all(mapped(tensor) for tensor in held(decoder).values())
    assert decoder.local == decoder.spec
    assert PagedSequence(decoder).feed(torch.tensor([1, 2, 3])).shape == (3, 256)


def test_more_ranks_than_heads_are_refused_before_anything_is_read(tmp_path: Path, spec: ModelSpec) -> None:
    nowhere = ModelFiles("tiny", tmp_path / "missing", "safetensors")
    mesh = thread_meshes(Parallelism(tensor=7), 1.0)[0]
    with pytest.raises(InvalidArgument, match="6 query heads, got 7; lower tensor_parallel"):
        Decoder.load(nowhere, spec, torch.float32, mesh=mesh)
