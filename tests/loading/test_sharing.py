"""Several processes of a host and one set of weights."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from triptych.kernels import dequantize
from triptych.models.checkpoint import open_checkpoint
from triptych.models.files import ModelFiles
from triptych.models.quantization import Quantization
from triptych.models.weights import open_weights

OPEN = """
import sys, torch
from contextlib import contextmanager
from pathlib import Path
from triptych.kernels import dequantize
from triptych.models.checkpoint import open_checkpoint
from triptych.models.files import ModelFiles
from triptych.models.weights import open_weights

class Report:
    @contextmanager
    def task(self, title, total):
        print(title, flush=True)
        yield lambda count: None

print("ready", flush=True)
sys.stdin.readline()
path, format, quantization, name = Path(sys.argv[1]), *sys.argv[2:]
source = open_checkpoint(ModelFiles("m", path, format), "llama_cpp" if quantization == "gguf" else "hugging_face")
weights = open_weights(source, torch.bfloat16, quantization=quantization, progress=Report())
print("sum", float(dequantize(weights.matrix(name)).sum(dtype=torch.float64)), flush=True)
sys.stdin.readline()
"""


def start(files: ModelFiles, quantization: Quantization, name: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN, str(files.path), files.format, quantization, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go_on(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_processes_that_start_together_convert_once(
    folder: Callable[..., ModelFiles], cache: Path, quantization: Quantization
) -> None:
    files = folder({"model.safetensors": {"a": torch.full((1000, 100), 127.0)}})
    processes = [start(files, quantization, "a") for _ in range(2)]
    for process in processes:
        go_on(process)
    said = [process.communicate("\n")[0].splitlines() for process in processes]
    assert [lines[-1] for lines in said] == ["sum 12700000.0"] * 2
    assert sum(line.startswith(("Converting", "Quantizing")) for lines in said for line in lines) == 1


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_two_processes_hold_one_copy_of_the_pages(
    folder: Callable[..., ModelFiles], cache: Path, quantization: Quantization
) -> None:
    matrix = torch.ones(2048, 1024, dtype=torch.bfloat16)
    files = folder({"model.safetensors": {"a": matrix}})
    made = assert_shared(files, quantization, "a", matrix.numel() * (2 if quantization == "none" else 1))
    assert made.is_relative_to(cache) == (quantization == "int8")


def test_two_processes_hold_one_copy_of_a_gguf(smollm2: ModelFiles) -> None:
    name, rows, row_bytes = "model.embed_tokens.weight", 49152, 576 // 32 * 34
    assert assert_shared(smollm2, "gguf", name, rows * row_bytes) == smollm2.path


def assert_shared(files: ModelFiles, quantization: Quantization, name: str, size: int) -> Path:
    """Reads all of a matrix in another process and in this one; returns the file that both have it from."""
    other = start(files, quantization, name)
    go_on(other)
    source = open_checkpoint(files, "llama_cpp" if quantization == "gguf" else "hugging_face")
    weights = open_weights(source, torch.bfloat16, quantization=quantization)
    assert other.stdout is not None
    said = next(line for line in other.stdout if line.startswith("sum"))
    assert said == f"sum {float(dequantize(weights.matrix(name)).sum(dtype=torch.float64))}\n"
    path = max(weights.files, key=lambda path: path.stat().st_size)
    usage = mapped(path)
    other.communicate("\n")
    assert usage["Shared_Clean"] + usage["Shared_Dirty"] >= size
    assert usage["Anonymous"] == 0
    return path


def mapped(path: Path) -> dict[str, int]:
    """Bytes of this process's mapping of a file, by kind, as the kernel counts them."""
    usage: dict[str, int] = {}
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, _, rest = line.partition(":")
        if "-" in key.split()[0]:
            inside = line.endswith(str(path))
        elif inside and rest.endswith("kB"):
            usage[key] = usage.get(key, 0) + int(rest.split()[0]) * 1024
    return usage
