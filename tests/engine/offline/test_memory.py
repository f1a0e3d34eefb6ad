"""What a process has in memory that serves: a budget is kept, and room that nobody has used costs nothing."""

import ctypes
import gc
import platform
from pathlib import Path

import psutil
import pytest

from triptych.cli.bench.experts.process import apart, own_peak_bytes
from triptych.cli.experts.packing import packed_by
from triptych.engine import Engine, SamplingParams
from triptych.engine.heap import give_back
from triptych.experts.settings import Bytes, OffloadSettings
from triptych.models.progress import SILENT
from triptych.models.synthetic import synthetic
from triptych.models.text import TextProcessor

pytestmark = [
    pytest.mark.skipif(
        platform.system() != "Linux" or platform.libc_ver()[0] != "glibc", reason="needs Linux and glibc"
    ),
    pytest.mark.usefixtures("found_by_children"),
]
MIB = 1 << 20
SIZE = "150MB"
"""Of all experts, which take 113 MB in twelve bits; those of one layer are a quarter."""
LEAST, BUDGET = 28 * MIB, 48 * MIB
OTHERS = 4 * MIB
"""What is no expert: 1.6 MB of weights, 1 MB of KV, buffers of a step, and Python's heap, which grows by 1 MiB."""


def cache_in(folder: Path, patch: pytest.MonkeyPatch) -> None:
    for module in ("synthetic.folder", "conversion"):  # not the variable: kernels are compiled into the cache, too
        patch.setattr(f"triptych.models.{module}.cache_directory", lambda: folder)


def resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def serve(model: Path, budget: int) -> None:
    """Answers that walk past all experts."""
    with Engine(str(model), expert_offload=OffloadSettings(budget=Bytes(budget)), kv_cache_memory=MIB) as engine:
        for first in range(1, 450, 50):
            prompt = list(range(first, first + 33))
            engine.generate([prompt], SamplingParams(temperature=0, max_tokens=8, ignore_eos=True))
        assert engine.core.decoder.residency is not None
        assert engine.core.decoder.residency.counts.read_bytes > budget


def growth(model: Path, cache: Path, budgets: list[int]) -> list[int]:
    """By how many bytes a process grows that serves from each budget in turn, once it has its libraries."""
    with pytest.MonkeyPatch.context() as patch:
        cache_in(cache, patch)
        serve(model, LEAST)
        found = []
        for budget in budgets:
            gc.collect()
            give_back()
            before = resident_bytes()
            serve(model, budget)
            found.append(own_peak_bytes() - before)
        return found


def test_what_serves_from_a_budget_grows_by_that_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_in(tmp_path, monkeypatch)
    model = synthetic(SIZE)
    packed_by(str(model), "auto", "none", SILENT, verify=False)
    kept, doubled = apart(300, growth, model, tmp_path, [BUDGET, 2 * BUDGET])
    allowed = round(1.1 * BUDGET) + OTHERS
    assert BUDGET // 2 < kept <= allowed
    assert doubled > allowed  # a pool of twice the size would be seen


BLOCK, BLOCKS = 64 << 10, 512
ROWS = 16_384
"""Of 320 scores each, 20 MiB in all; the blocks that are freed are 32 MiB."""


def litter() -> None:
    """Leaves the heap as a large tokenizer does: full of pages that are free, and that large buffers are made of."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    libc.free(libc.malloc(30 * MIB))  # from now on what is smaller than that comes from the heap
    blocks = [libc.malloc(BLOCK) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    for block in blocks[:-1]:
        libc.free(block)


def opened_with_litter(model: Path) -> int:
    """By how many bytes a process grows that opens a second engine with room for many rows, and serves one."""

    def load(*args: object) -> TextProcessor:
        text = original(*args)  # type: ignore[arg-type]
        litter()
        return text

    original = TextProcessor.load
    sizes = {"kv_cache_memory": MIB, "context_length": 64}
    with pytest.MonkeyPatch.context() as patch:
        for rows in (1, ROWS):
            before = resident_bytes()
            engine = Engine(str(model), max_running=rows, **sizes)  # type: ignore[arg-type]
            engine.generate([[5, 6, 7]], SamplingParams(max_tokens=4, ignore_eos=True))
            patch.setattr(TextProcessor, "load", load)
    return resident_bytes() - before


def test_room_that_no_step_has_used_costs_nothing(llama: Path) -> None:
    assert apart(300, opened_with_litter, llama) < 10 * MIB
