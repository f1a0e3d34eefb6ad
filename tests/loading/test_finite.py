"""Weights used where they lie are read once per host, and only those that are wanted."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType

from triptych.core.errors import DataLoss
from triptych.models.checkpoint import open_checkpoint
from triptych.models.files import ModelFiles
from triptych.models.gguf_header import read_header
from triptych.models.recipe_source import RecipeSource
from triptych.models.recipes import Recipe
from triptych.models.recipes.llama import read_llama
from triptych.models.recipes.place import Place
from triptych.models.stored import BLOCK_KINDS
from triptych.models.testing import RecordingProgress
from triptych.models.weights import open_weights

Folder = Callable[..., ModelFiles]


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of files that were mapped to be read, one entry per mapping."""
    sizes: list[int] = []
    plain = np.memmap

    def counting(*arguments: Any) -> Any:
        found: Any = plain(*arguments)
        sizes.append(found.nbytes)
        return found

    monkeypatch.setattr(np, "memmap", counting)
    return sizes


def test_what_is_used_where_it_lies_is_read_once_on_a_host(
    folder: Folder, cache: Path, progress: RecordingProgress, mapped: list[int]
) -> None:
    shards = {f"{n}.safetensors": {f"{n}.w": torch.ones(30, 40), f"{n}.ids": torch.ones(7).int()} for n in range(3)}
    files = folder(shards)
    for _ in range(2):
        open_weights(open_checkpoint(files), torch.float32, progress=progress)
    (task,) = progress.tasks
    size = 3 * 30 * 40 * 4
    assert (task.title, task.total, task.done) == ("Checking model", size, size)
    assert sum(mapped) == size
    os.utime(files.path / "1.safetensors", ns=(1, 1))
    open_weights(open_checkpoint(files), torch.float32, progress=progress)
    assert len(progress.tasks) == 2
    assert len(list(cache.rglob("*.finite"))) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_wanted_rows_of_a_checkpoint_are_read(
    folder: Folder, cache: Path, mapped: list[int], dtype: torch.dtype
) -> None:
    shards = {
        "1.safetensors": {"h.0.qkv.weight": torch.randn(60, 16), "eye.weight": torch.randn(500, 500)},
        "2.safetensors": {"h.1.qkv.weight": torch.randn(60, 16), "experts": torch.randn(8, 10, 16)},
    }
    names = {
        **{f"h.{{}}.{part}": Place("h.{0}.qkv", of=("query", "key", "value")) for part in ("query", "key", "value")},
        "experts.{}.up": Place("experts", stacked=True, weight=""),
    }
    rows = {"query": 40, "key": 10, "value": 10}
    wanted: dict[str, tuple[int, ...]] = {f"h.1.{part}.weight": (count, 16) for part, count in rows.items()}
    wanted |= {f"experts.{expert}.up.weight": (10, 16) for expert in range(8)}
    source = RecipeSource(open_checkpoint(folder(shards)), Recipe(read=read_llama, names=names), wanted)
    weights = open_weights(source, dtype)
    assert sum(mapped) == (60 * 16 + 8 * 10 * 16) * 4
    assert torch.equal(weights.tensor("h.1.key.weight"), shards["2.safetensors"]["h.1.qkv.weight"][40:50].to(dtype))
    assert torch.equal(weights.tensor("experts.5.up.weight"), shards["2.safetensors"]["experts"][5].to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_place_is_looked_at_and_every_number_may_be_there(
    folder: Folder, cache: Path, rng: np.random.Generator, dtype: torch.dtype
) -> None:
    limits = torch.finfo(dtype)
    numbers = [0.0, -0.0, limits.max, limits.min, limits.tiny, -limits.tiny, limits.smallest_normal / 2]
    tensor = torch.tensor(numbers, dtype=dtype).repeat(40_000)
    open_weights(open_checkpoint(folder({"model.safetensors": {"w": tensor}}, "good")), dtype)
    for place in (0, len(tensor) - 1, int(rng.integers(len(tensor)))):
        for value in (float("nan"), -float("nan"), float("inf"), -float("inf")):
            spoiled = tensor.clone()
            spoiled[place] = value
            files = folder({"model.safetensors": {"w": spoiled}}, f"{place}-{rng.integers(2**60)}")
            with pytest.raises(DataLoss, match=r"tensor w holds NaN or infinity"):
                open_weights(open_checkpoint(files), dtype)


def test_without_a_cache_weights_are_read_at_every_start(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "file" / "cache"))
    good, bad = (
        folder({"model.safetensors": {"w": torch.tensor([1.0, value])}}, str(value)) for value in (2, np.nan)
    )
    assert open_weights(open_checkpoint(good), torch.float32).tensor("w").tolist() == [1, 2]
    with pytest.raises(DataLoss, match=r"tensor w holds NaN or infinity"):
        open_weights(open_checkpoint(bad), torch.float32)


@pytest.mark.parametrize("kind", BLOCK_KINDS)
def test_factors_of_blocks_are_looked_at(
    llama_gguf: Callable[..., ModelFiles], rng: np.random.Generator, cache: Path, kind: str
) -> None:
    packing = GGMLQuantizationType[kind]
    _, size = gguf.GGML_QUANT_SIZES[packing]
    blocks = rng.integers(0, 60, (8, size), dtype=np.uint8)
    factors = [
        place
        for place in range(0, size, 2)
        if not np.isfinite(gguf.quants.dequantize(_with_nan(blocks[:1], place), packing)).all()
    ]
    assert factors
    path = llama_gguf(rng, GGMLQuantizationType.Q8_0).path
    for place in factors:
        target = path.with_name(f"{kind}-{place}.gguf")
        _rewrite(path, target, "blk.0.ffn_up.weight", _with_nan(blocks, place), packing)
        source = open_checkpoint(ModelFiles("m", target, "gguf"), "llama_cpp")
        with pytest.raises(DataLoss, match=r"tensor blk\.0\.ffn_up\.weight holds NaN or infinity"):
            open_weights(source, torch.float32, quantization="gguf")


def _with_nan(blocks: np.ndarray, place: int) -> np.ndarray:
    spoiled = blocks.copy()
    spoiled[-1, place : place + 2] = np.frombuffer(np.float16("nan").tobytes(), np.uint8)
    return spoiled


def _rewrite(path: Path, target: Path, name: str, packed: np.ndarray, kind: GGMLQuantizationType) -> None:
    """The same file with one tensor packed so."""
    reader, writer = gguf.GGUFReader(path), gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if field.name.startswith("llama.") and field.types:
            writer.add_key_value(field.name, field.contents(), field.types[0])
    for tensor in reader.tensors:
        data, form = (packed, kind) if tensor.name == name else (np.array(tensor.data), tensor.tensor_type)
        writer.add_tensor(tensor.name, data, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_header(target).tensors[name].type == kind
