"""Matrices as int8: how far off they may be, how they are packed, and the file that is made once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file

from triptych.core.errors import DataLoss, ResourceExhausted
from triptych.kernels import DenseWeight, Int8Weight, dequantize
from triptych.models import int8
from triptych.models.checkpoint import open_checkpoint
from triptych.models.files import ModelFiles
from triptych.models.int8 import pack
from triptych.models.testing import RecordingProgress
from triptych.models.weights import Weights, open_weights

Folder = Callable[..., ModelFiles]


def open_int8(files: ModelFiles, **options: object) -> Weights:
    return open_weights(open_checkpoint(files), torch.float32, quantization="int8", **options)  # type: ignore[arg-type]


def int8_of(weights: Weights, name: str) -> Int8Weight:
    weight = weights.matrix(name)
    assert isinstance(weight, Int8Weight)
    return weight


def assert_packed(weight: Int8Weight, matrix: torch.Tensor) -> None:
    values, scales = pack(matrix.numpy())
    assert np.array_equal(weight.values.numpy(), values)
    assert np.array_equal(weight.scales.numpy(), scales)


@pytest.mark.parametrize(("rows", "inputs"), [(1, 1), (16, 4), (15, 3), (17, 5), (33, 130)])
def test_packing_equals_a_loop(rng: np.random.Generator, rows: int, inputs: int) -> None:
    matrix = rng.standard_normal((rows, inputs), dtype=np.float32) * rng.uniform(1e-3, 1e3, (rows, 1))
    values, scales = pack(matrix.astype(np.float32))
    assert values.shape == (-(-rows // 16), -(-inputs // 4), 16, 4)
    seen = np.zeros_like(values)
    for o in range(rows):
        scale = np.float32(np.abs(matrix[o]).max().astype(np.float32) / np.float32(127))
        assert scales[o] == scale
        levels = np.rint(matrix[o].astype(np.float32) / scale).astype(np.int64)
        for i in range(inputs):
            assert values[o // 16, i // 4, o % 16, i % 4] == levels[i]
            seen[o // 16, i // 4, o % 16, i % 4] = 1
    assert not values[seen == 0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_no_value_is_off_by_more_than_half_a_scale(
    folder: Folder, rng: np.random.Generator, cache: Path, dtype: torch.dtype
) -> None:
    matrix = torch.from_numpy(rng.standard_normal((70, 45))).to(dtype)
    weight = int8_of(open_int8(folder({"model.safetensors": {"m": matrix}})), "m")
    error = (dequantize(weight) - matrix.float()).abs()
    assert (error <= weight.scales.unsqueeze(1) * 0.5 * (1 + 1e-5)).all()
    assert torch.equal(weight.scales, matrix.float().abs().amax(1) / 127)


@pytest.mark.parametrize("magnitude", [0.0, 1e-45, 1e-38, 1e38])
def test_rows_of_zeros_and_of_extreme_values(magnitude: float) -> None:
    matrix = np.full((3, 5), magnitude, dtype=np.float32)
    matrix[1] = 1.0
    values, scales = pack(matrix)
    assert np.isfinite(scales).all()
    assert (values[0, 0, 1, :4] == 127).all()
    assert np.abs(scales[0] * values[0, 0, 0, 0].astype(np.float32) - matrix[0, 0]) <= max(scales[0], 1e-44)


@pytest.mark.parametrize("kind", ["F32", "F16", "Q4_1", "Q8_0"])
def test_a_gguf_is_quantised_from_what_it_stores(
    llama_gguf: Callable[..., ModelFiles], rng: np.random.Generator, cache: Path, kind: str
) -> None:
    files = llama_gguf(rng, GGMLQuantizationType[kind])
    plain, weights = open_weights(open_checkpoint(files), torch.float32), open_int8(files)
    assert weights.names == plain.names
    assert not weights.interleaved
    for name in plain.names:
        if len(plain.shape(name)) == 2:
            assert_packed(int8_of(weights, name), plain.tensor(name))
        else:
            assert torch.equal(weights.tensor(name), plain.tensor(name))


def test_vectors_images_and_integers_stay_as_they_are(folder: Folder, cache: Path) -> None:
    tensors = {"norm": torch.ones(4), "filters": torch.ones(2, 3, 4, 4), "ids": torch.ones(2, 2, dtype=torch.int64)}
    weights = open_int8(folder({"model.safetensors": {**tensors, "m": torch.ones(4, 4)}}))
    assert all(torch.equal(weights.tensor(name), tensor) for name, tensor in tensors.items())
    assert weights.shape("m") == (4, 4)
    assert isinstance(weights.matrix("ids"), DenseWeight)
    with pytest.raises(AssertionError, match="m is a quantised matrix"):
        weights.tensor("m")


def test_a_matrix_larger_than_a_chunk_is_the_same_in_pieces(
    folder: Folder, rng: np.random.Generator, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = torch.from_numpy(rng.standard_normal((101, 33), dtype=np.float32))
    monkeypatch.setattr(int8, "_CHUNK", 40 * 33)
    weight = int8_of(open_int8(folder({"model.safetensors": {"m": matrix}})), "m")
    assert_packed(weight, matrix)


def test_the_file_is_made_once_and_is_plain_safetensors_on_cache_lines(
    folder: Folder, cache: Path, progress: RecordingProgress
) -> None:
    files = folder({"model.safetensors": {"a": torch.ones(5, 6), "b": torch.ones(64, 32)}})
    for dtype in (torch.float32, torch.bfloat16):
        weights = open_weights(open_checkpoint(files), dtype, quantization="int8", progress=progress)
    (task,) = progress.tasks
    size = 2 * 64 + 4 * 5 + 64 * 32 + 4 * 64
    assert (task.title, task.total, task.done) == ("Quantizing model.safetensors to int8", size, size)
    (made,) = cache.rglob("*.safetensors")
    assert made.name.split("-")[1:3] == ["int8", "tiles16x4"]
    assert load_file(made).keys() == {"a", "a:scales", "b", "b:scales"}
    assert int8_of(weights, "b").values.data_ptr() % 64 == 0
    assert weights.files == {made}


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage"])
def test_a_damaged_file_is_made_anew(
    folder: Folder, rng: np.random.Generator, cache: Path, progress: RecordingProgress, damage: str
) -> None:
    matrix = torch.from_numpy(rng.standard_normal((40, 7), dtype=np.float32))
    files = folder({"model.safetensors": {"m": matrix}})
    open_int8(files)
    (made,) = cache.rglob("*.safetensors")
    whole = made.read_bytes()
    made.write_bytes({"cut": whole[:-1], "empty": b"", "garbage": b"\xff" * len(whole)}[damage])
    open_int8(files, progress=progress)
    assert len(progress.tasks) == 1
    assert made.read_bytes() == whole


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_int8_cannot_hold_are_named(folder: Folder, cache: Path, value: float) -> None:
    matrix = torch.ones(4, 4)
    matrix[2, 1] = value
    with pytest.raises(DataLoss, match=r"tensor m holds NaN or infinity; every weight must be a finite number"):
        open_int8(folder({"model.safetensors": {"m": matrix}}))
    assert not list(cache.rglob("*.partial"))


def test_too_little_disk_is_said_before_writing(folder: Folder, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1_000_000}))
    files = folder({"model.safetensors": {"m": torch.empty(1000, 3000, dtype=torch.float16)}})
    with pytest.raises(ResourceExhausted, match=r"to int8 needs 3 MB in .*, 1 MB are free"):
        open_int8(files)
