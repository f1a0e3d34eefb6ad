"""Weights by name: mapped where they lie, converted once where they cannot be, shared between processes."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from mmap import PAGESIZE
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from triptych.core.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from triptych.models.checkpoint import open_checkpoint
from triptych.models.extent import Extent
from triptych.models.files import ModelFiles
from triptych.models.mapping import MappedFile
from triptych.models.sharding import Interval, Rows
from triptych.models.testing import RecordingProgress
from triptych.models.weights import Weights, open_weights

Folder = Callable[..., ModelFiles]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def random_tensors(rng: np.random.Generator, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    shapes: dict[str, tuple[int, ...]] = {"a": (7, 5), "b": (64, 32), "c": (3,), "d": (), "e": (0, 4), "f": (2, 3, 4)}
    values = {name: np.asarray(rng.standard_normal(shape, dtype=np.float32)) for name, shape in shapes.items()}
    return {name: torch.from_numpy(array).to(dtype) for name, array in values.items()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_stored_in_the_dtype_are_used_where_they_lie(
    folder: Folder, rng: np.random.Generator, cache: Path, dtype: torch.dtype
) -> None:
    tensors = random_tensors(rng, dtype)
    files = folder({"model.safetensors": tensors})
    weights = open_weights(open_checkpoint(files), dtype)
    assert weights.names == tensors.keys()
    assert weights.files == {files.path / "model.safetensors"}
    assert not list(cache.rglob("*.safetensors"))
    for name, tensor in tensors.items():
        assert weights.shape(name) == tuple(tensor.shape)
        assert weights.tensor(name).dtype == dtype
        torch.testing.assert_close(weights.tensor(name), tensor, rtol=0, atol=0)


def test_asking_for_one_name_does_not_go_over_all() -> None:
    class Walked(dict[str, Extent]):
        count = 0

        def __iter__(self) -> Iterator[str]:
            self.count += 1
            return super().__iter__()

    stored = Walked(a=Extent(Path("a"), 0, (1,), "F32"))
    weights = Weights(stored, torch.float32, interleaved=False)
    assert "a" in weights.names
    assert "b" not in weights.names
    assert stored.count == 0


@pytest.mark.parametrize("stored", [*DTYPES, torch.float64])
@pytest.mark.parametrize("dtype", DTYPES)
def test_other_dtypes_are_converted_as_torch_would(
    folder: Folder, rng: np.random.Generator, cache: Path, stored: torch.dtype, dtype: torch.dtype
) -> None:
    tensors = random_tensors(rng, stored)
    tensors["b"][0, :2] = torch.tensor([0.0, -0.0])
    weights = open_weights(open_checkpoint(folder({"model.safetensors": tensors})), dtype)
    for name, tensor in tensors.items():
        torch.testing.assert_close(weights.tensor(name), tensor.to(dtype), rtol=0, atol=0)


def test_integers_keep_their_type(folder: Folder, cache: Path) -> None:
    ids = torch.arange(6).view(1, 6)
    weights = open_weights(
        open_checkpoint(folder({"model.safetensors": {"ids": ids, "w": torch.ones(2)}})), torch.bfloat16
    )
    assert torch.equal(weights.tensor("ids"), ids)
    assert weights.tensor("w").dtype == torch.bfloat16


def test_only_tensors_of_another_dtype_are_converted(folder: Folder, cache: Path) -> None:
    tensors = {"norm": torch.ones(4), "matrix": torch.ones(4, 4, dtype=torch.bfloat16)}
    files = folder({"model.safetensors": tensors})
    weights = open_weights(open_checkpoint(files), torch.bfloat16)
    (converted,) = cache.rglob("*.safetensors")
    assert weights.files == {files.path / "model.safetensors", converted}
    assert load_file(converted).keys() == {"norm"}


def test_the_converted_file_is_plain_safetensors_on_cache_lines(
    folder: Folder, rng: np.random.Generator, cache: Path
) -> None:
    tensors = random_tensors(rng, torch.bfloat16)
    weights = open_weights(open_checkpoint(folder({"model.safetensors": tensors})), torch.float32)
    (converted,) = weights.files
    again = load_file(converted)
    assert all(torch.equal(again[name], tensor.float()) for name, tensor in tensors.items())
    assert weights.tensor("b").data_ptr() % 64 == 0


def test_rows_are_a_view_of_the_mapping(folder: Folder, cache: Path) -> None:
    matrix = torch.arange(40.0).view(10, 4)
    weights = open_weights(open_checkpoint(folder({"model.safetensors": {"m": matrix}})), torch.float32)
    rows = weights.tensor("m", Rows(Interval(3, 5)))
    assert torch.equal(rows, matrix[3:5])
    assert rows.data_ptr() == weights.tensor("m").data_ptr() + 3 * 4 * 4


def pages(view: torch.Tensor) -> tuple[int, int]:
    """The addresses of the pages that it lies in."""
    start, stop = view.data_ptr(), view.data_ptr() + view.nbytes
    return start // PAGESIZE * PAGESIZE, -(-stop // PAGESIZE) * PAGESIZE


def test_the_disk_reads_what_is_asked_for_in_that_order(
    folder: Folder, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = folder({"model.safetensors": {name: torch.ones(64, 1000) for name in "abcd"}})
    weights = open_weights(open_checkpoint(files), torch.float32)
    ahead: list[tuple[int, int]] = []
    begin = MappedFile.read_ahead

    def watched(mapped: MappedFile, run: range) -> None:
        start = mapped.content.data_ptr() + run.start
        ahead.append((start, start + len(run)))
        begin(mapped, run)

    monkeypatch.setattr(MappedFile, "read_ahead", watched)
    asked = [pages(weights.tensor(name)) for name in "cab"]
    assert ahead == asked
    weights._ahead = 32 * 1000 * 4  # more would drive out what is needed first
    assert weights.tensor("d").sum() == 64_000
    assert ahead == asked
    rows = weights.tensor("d", Rows(Interval(0, 16)))
    assert ahead == [*asked, pages(rows)], "a part uses up no more than itself"


def test_a_misaligned_tensor_is_moved_into_place(tmp_path: Path, cache: Path) -> None:
    byte = b'"byte":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    header = b"{" + byte + b',"w":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}'
    data = b"\7" + np.array([1.5, -2.0], dtype="<f4").tobytes()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    weights = open_weights(open_checkpoint(ModelFiles("m", tmp_path, "safetensors")), torch.float32)
    assert weights.tensor("w").tolist() == [1.5, -2.0]
    assert weights.tensor("byte").tolist() == [7]


def test_tensors_outlive_their_weights(folder: Folder, cache: Path) -> None:
    weights = open_weights(open_checkpoint(folder({"model.safetensors": {"a": torch.arange(5.0)}})), torch.float32)
    tensor = weights.tensor("a")
    weights.close()
    assert tensor.tolist() == [0, 1, 2, 3, 4]


def test_a_conversion_is_made_once_and_again_when_the_source_changes(
    folder: Folder, cache: Path, progress: RecordingProgress
) -> None:
    files = folder({"model.safetensors": {"a": torch.ones(100)}})
    for _ in range(3):
        open_weights(open_checkpoint(files), torch.bfloat16, progress=progress)
    (task,) = progress.tasks
    assert (task.title, task.total, task.done) == ("Converting model.safetensors to BF16", 200, 200)
    os.utime(files.path / "model.safetensors", ns=(1, 1))
    open_weights(open_checkpoint(files), torch.bfloat16, progress=progress)
    assert len(progress.tasks) == 2
    assert len(list(cache.rglob("*.safetensors"))) == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "partial"])
def test_a_damaged_conversion_is_made_anew(
    folder: Folder, cache: Path, progress: RecordingProgress, damage: str
) -> None:
    files = folder({"model.safetensors": {"a": torch.arange(100.0)}})
    open_weights(open_checkpoint(files), torch.bfloat16)
    (converted,) = cache.rglob("*.safetensors")
    whole = converted.read_bytes()
    match damage:
        case "cut":
            converted.write_bytes(whole[:-1])
        case "empty":
            converted.write_bytes(b"")
        case "other":
            converted.write_bytes(whole.replace(b'"a"', b'"b"'))
        case "partial":
            converted.rename(converted.with_name(converted.name + ".partial"))
    weights = open_weights(open_checkpoint(files), torch.bfloat16, progress=progress)
    assert len(progress.tasks) == 1
    assert torch.equal(weights.tensor("a"), torch.arange(100.0).bfloat16())
    assert not list(cache.rglob("*.partial"))


@pytest.mark.parametrize("call", ['convert(source, ["w"], "BF16", SILENT)', 'quantize(source, ["w"], SILENT)'])
def test_memory_stays_bounded_while_a_large_tensor_is_converted(tmp_path: Path, cache: Path, call: str) -> None:
    rows = 200_000
    header = b'{"w":{"dtype":"F32","shape":[%d,256],"data_offsets":[0,%d]}}' % (rows, rows * 1024)
    with (tmp_path / "model.safetensors").open("wb") as file:  # a sparse file: 200 MB that cost nothing
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + rows * 1024)
    script = """
import sys
from pathlib import Path
from triptych.models.conversion import convert
from triptych.models.int8 import quantize
from triptych.models.progress import SILENT
from triptych.models.sources import SafetensorsSource
source = SafetensorsSource(Path(sys.argv[1]))
def private():  # MB that belong to this process, mapped files not counted
    return sum(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) / 1024
before, peak = private(), 0.0
read = source.read
def watched(name, start, stop):
    global peak
    rows = read(name, start, stop)
    peak = max(peak, private())
    return rows
source.read = watched
eval(sys.argv[2])
print(peak - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "model.safetensors"), call],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 100


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8])
def test_dtypes_that_nobody_serves_are_refused(folder: Folder, dtype: torch.dtype) -> None:
    with pytest.raises(InvalidArgument, match="dtype must be float32, float16 or bfloat16, got torch"):
        open_weights(open_checkpoint(folder({"model.safetensors": {"a": torch.ones(1)}})), dtype)


def test_values_too_large_for_float16_are_refused(folder: Folder, cache: Path) -> None:
    files = folder({"model.safetensors": {"a": torch.tensor([1.0, 7e4])}})
    with pytest.raises(InvalidArgument, match=r"tensor a holds 70000, more than F16 can; use bfloat16 or float32"):
        open_weights(open_checkpoint(files), torch.float16)
    assert not list(cache.rglob("*.partial"))


def test_too_little_disk_is_said_before_writing(folder: Folder, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10_000_000}))
    files = folder({"model.safetensors": {"a": torch.empty(6_000_000, dtype=torch.float16)}})
    with pytest.raises(ResourceExhausted, match=r"to BF16 needs 12 MB in .*, 10 MB are free: make room, or set"):
        open_weights(open_checkpoint(files), torch.bfloat16)


def test_a_disk_that_fills_up_leaves_nothing_behind(folder: Folder, cache: Path) -> None:
    files = folder({"model.safetensors": {"a": torch.ones(100_000)}})
    script = """
import resource, sys, torch
from pathlib import Path
from triptych.models.files import local_files
from triptych.models.checkpoint import open_checkpoint
from triptych.models.weights import open_weights
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    open_weights(open_checkpoint(local_files("m", Path(sys.argv[1]))), torch.bfloat16)
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", script, str(files.path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"ResourceExhausted writing {cache}")
    assert "(File too large, " in done.stdout
    assert {path.suffix for path in cache.rglob("*.*") if path.is_file()} == {".lock"}


def test_a_cache_that_cannot_be_made_is_named(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "file" / "cache"))
    files = folder({"model.safetensors": {"a": torch.ones(2)}})
    with pytest.raises(FailedPrecondition, match=r"the cache cannot be written at .*Not a directory.*TRIPTYCH_CACHE"):
        open_weights(open_checkpoint(files), torch.bfloat16)
