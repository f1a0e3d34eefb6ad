"""Damaged weight files: one typed line that names the file and what was expected, for every kind of damage."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from triptych.core.errors import DataLoss, NotFound, TriptychError, Unimplemented
from triptych.models.checkpoint import open_checkpoint
from triptych.models.files import ModelFiles
from triptych.models.gguf_header import read_header as read_gguf_header
from triptych.models.safetensors_header import read_header
from triptych.models.weights import open_weights


def safetensors(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"{", r"the header is not JSON"),
        (b"\xff\xff", r"the header is not JSON"),
        (b"[" * 100_000, r"the header is not JSON"),
        (b"[]", r"the header must be a JSON object, got list"),
        ({"w": {"dtype": "F32"}}, r"tensor w is described as .* not understood"),
        (entry(shape=[-1]), r"tensor w is described as"),
        (entry(shape=[True, 2]), r"tensor w is described as"),
        (entry(shape=5), r"tensor w is described as"),
        (entry(offsets=[0]), r"tensor w is described as"),
        (entry(shape=[3]), r"tensor w of shape \[3\] and type F32 needs 12 bytes, the header gives it 8"),
        (entry(offsets=[8, 16]), r"is cut short: tensor w ends at byte \d+, the file has \d+"),
    ],
)
def test_a_broken_safetensors_header_is_described(tmp_path: Path, header: object, said: str) -> None:
    with pytest.raises(DataLoss, match=said):
        read_header(safetensors(tmp_path / "w.safetensors", header, b"\0" * 8))


@pytest.mark.parametrize("dtype", ["F4", "Q8", 7, None])
def test_an_unknown_element_type_is_named(tmp_path: Path, dtype: object) -> None:
    with pytest.raises((Unimplemented, DataLoss), match="tensor w is"):
        read_header(safetensors(tmp_path / "w.safetensors", entry(dtype), b"\0" * 8))


def test_float8_weights_are_refused_rather_than_read_without_their_scales(tmp_path: Path) -> None:
    safetensors(tmp_path / "model.safetensors", entry("F8_E4M3", [8]), b"\0" * 8)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Unimplemented, match=r"tensor w is F8_E4M3 at byte \d+, which is not read"):
        open_weights(open_checkpoint(ModelFiles("m", tmp_path, "safetensors")), torch.float32)


def test_a_header_longer_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", 2**40) + b"{}")
    with pytest.raises(DataLoss, match=r"its header claims 1,099,511,627,776 bytes, the file has 10"):
        read_header(path)


@pytest.mark.parametrize("reader", [read_header, read_gguf_header])
def test_a_git_lfs_pointer_is_recognised(tmp_path: Path, reader: Callable[[Path], object]) -> None:
    path = tmp_path / "w"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(DataLoss, match=r"is a Git LFS pointer.*git lfs pull"):
        reader(path)


@pytest.mark.parametrize("reader", [read_header, read_gguf_header])
def test_missing_empty_and_folder(tmp_path: Path, reader: Callable[[Path], object]) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        reader(tmp_path / "absent")
    (tmp_path / "empty").touch()
    with pytest.raises(DataLoss, match="empty is"):
        reader(tmp_path / "empty")
    with pytest.raises(DataLoss, match="is a folder, expected a file"):
        reader(tmp_path)


def test_a_safetensors_file_cut_anywhere_is_data_loss(folder: Callable[..., ModelFiles]) -> None:
    path = folder({"model.safetensors": {"a": torch.ones(3), "b": torch.ones(2, 2)}}).path / "model.safetensors"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataLoss, match=r"model\.safetensors"):
            read_header(path)


def test_a_gguf_file_cut_anywhere_is_data_loss(
    llama_gguf: Callable[..., ModelFiles], rng: np.random.Generator
) -> None:
    path = llama_gguf(rng).path
    whole = path.read_bytes()
    last = max(tensor.offset + tensor.nbytes for tensor in read_gguf_header(path).tensors.values())
    for length in {*range(0, 4000, 7), *rng.integers(0, last, 40).tolist()}:
        path.write_bytes(whole[:length])
        with pytest.raises(DataLoss, match=r"tiny\.gguf"):
            read_gguf_header(path)


def test_a_gguf_with_a_flipped_byte_is_read_or_refused_never_crashes(
    llama_gguf: Callable[..., ModelFiles], rng: np.random.Generator, cache: Path
) -> None:
    files = llama_gguf(rng)
    whole = files.path.read_bytes()
    header_size = min(tensor.offset for tensor in read_gguf_header(files.path).tensors.values())
    outcomes, said = [], []
    for place in rng.integers(0, header_size, 400):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        files.path.write_bytes(flipped)
        try:
            open_weights(open_checkpoint(files), torch.float32)
            outcomes.append("read")
        except TriptychError as error:
            outcomes.append(type(error).__name__)
            said.append(error.message)
    assert all("tiny.gguf" in message and "\n" not in message for message in said)
    assert {"read", "DataLoss"} <= set(outcomes) <= {"read", "DataLoss", "Unimplemented"}


@pytest.mark.parametrize(
    ("start", "kind", "said"),
    [
        (b"GGML\3\0\0\0", DataLoss, r"is not a GGUF file: it starts with b'GGML'"),
        (b"GGUF\0\0\0\3", Unimplemented, r"is a big-endian GGUF file"),
        (b"GGUF\1\0\0\0", Unimplemented, r"is GGUF version 1; versions 2 and 3 are read"),
    ],
)
def test_other_kinds_of_gguf_are_named(tmp_path: Path, start: bytes, kind: type[Exception], said: str) -> None:
    path = tmp_path / "old.gguf"
    path.write_bytes(start + b"\0" * 64)
    with pytest.raises(kind, match=said):
        read_gguf_header(path)


def test_a_tensor_from_elsewhere_has_no_place_in_llama(
    llama_gguf: Callable[..., ModelFiles], rng: np.random.Generator
) -> None:
    files = llama_gguf(rng, tensors={"blk.0.ssm_a.weight": np.zeros(4, dtype=np.float32)})
    with pytest.raises(Unimplemented, match=r"tensor blk\.0\.ssm_a\.weight has no place in the llama architecture"):
        open_weights(open_checkpoint(files), torch.float32)


@pytest.mark.parametrize(
    ("index", "kind", "said"),
    [
        ('{"weight_map": {"a": "gone.safetensors"}}', NotFound, r"has no shard gone\.safetensors"),
        ('{"weight_map": {"a": "1.safetensors", "c": "1.safetensors"}}', DataLoss, r"1\.safetensors has no tensor c"),
        ('{"weight_map": {"a": "../1.safetensors"}}', DataLoss, r"places tensor a in '\.\./1\.safetensors'"),
        ('{"weight_map": {"a": 3}}', DataLoss, r"places tensor a in 3"),
        ('{"weight_map": []}', DataLoss, r"has no weight_map"),
        ("{", DataLoss, r"index\.json, line 1"),
    ],
)
def test_a_broken_index_is_described(
    folder: Callable[..., ModelFiles], index: str, kind: type[Exception], said: str
) -> None:
    files = folder({"1.safetensors": {"a": torch.ones(3)}})
    (files.path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(kind, match=said):
        open_weights(open_checkpoint(files), torch.float32)
