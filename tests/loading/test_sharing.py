"""Several processes of a host and one set of weights."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from triptych.models.files import ModelFiles
from triptych.models.weights import open_weights

OPEN = """
import sys, torch
from contextlib import contextmanager
from pathlib import Path
from triptych.models.files import local_files
from triptych.models.weights import open_weights

class Report:
    @contextmanager
    def task(self, title, total):
        print("converted", flush=True)
        yield lambda count: None

print("ready", flush=True)
sys.stdin.readline()
weights = open_weights(local_files("m", Path(sys.argv[1])), torch.bfloat16, progress=Report())
print("sum", float(weights.tensor("a").float().sum()), flush=True)
sys.stdin.readline()
"""


def start(files: ModelFiles) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN, str(files.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go_on(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_processes_that_start_together_convert_once(folder: Callable[..., ModelFiles], cache: Path) -> None:
    files = folder({"model.safetensors": {"a": torch.ones(1000, 100)}})
    processes = [start(files) for _ in range(2)]
    for process in processes:
        go_on(process)
    said = [process.communicate("\n")[0].splitlines() for process in processes]
    assert [lines[-1] for lines in said] == ["sum 100000.0"] * 2
    assert sum(lines.count("converted") for lines in said) == 1


def test_two_processes_hold_one_copy_of_the_pages(folder: Callable[..., ModelFiles], cache: Path) -> None:
    size = 4 << 20
    files = folder({"model.safetensors": {"a": torch.ones(size // 2, dtype=torch.bfloat16)}})
    other = start(files)
    go_on(other)
    assert other.stdout is not None
    assert other.stdout.readline() == f"sum {size // 2}.0\n"
    weights = open_weights(files, torch.bfloat16)
    assert float(weights.tensor("a").float().sum()) == size // 2
    usage = mapped(files.path / "model.safetensors")
    other.communicate("\n")
    assert usage["Shared_Clean"] + usage["Shared_Dirty"] >= size
    assert usage["Anonymous"] == 0


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
