"""Engines that read experts come and go: nothing of them stays, and a process ends whatever is being read."""

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from triptych.core.errors import FailedPrecondition
from triptych.engine import Engine, SamplingParams
from triptych.experts.settings import Bytes, OffloadSettings
from triptych.kernels.native.compile import cache_directory
from triptych.models.synthetic import synthetic

POOL = 8 << 20
PARAMS = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    cache, compiled = tmp_path_factory.mktemp("cache"), cache_directory()
    (cache / "kernels").symlink_to(compiled)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_CACHE", str(cache))
        yield synthetic("12MB")


def opened(model: Path) -> Engine:
    return Engine(
        str(model), kv_cache_memory=1 << 22, threads=1, expert_offload=OffloadSettings(budget=Bytes(POOL), readers=3)
    )


def threads() -> int:
    """Of this process; who has joined one may still see it for a moment."""
    return len(os.listdir("/proc/self/task"))


def held() -> tuple[int, int]:
    """Threads that Python knows, and descriptors."""
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="counts what /proc lists")
def test_nothing_stays_of_engines_that_are_gone(model: Path) -> None:
    """Whether they are closed or merely forgotten."""

    def come_and_go(*, closed: bool) -> None:
        engine = opened(model)
        assert len(engine.generate([[1, 2, 3]], PARAMS)[0].token_ids) == 3
        if closed:
            engine.close()
        del engine
        gc.collect()

    for closed in (True, False):
        come_and_go(closed=closed)
    before, threads_before, bytes_before = held(), threads(), resident_bytes()
    for count in range(12):
        come_and_go(closed=count % 2 == 0)
    assert held() == before
    while threads() > threads_before:
        time.sleep(0.01)  # until one that has been joined is gone, or the test has taken too long
    assert resident_bytes() < bytes_before + 4 * POOL


def test_a_closed_engine_says_so_and_may_be_closed_again(model: Path) -> None:
    engine = opened(model)
    engine.generate([[5, 6]], PARAMS)
    residency = engine.core.decoder.residency
    assert residency is not None
    engine.close()
    demanded = residency.counts.demanded
    engine.close()
    assert residency.counts.demanded == demanded > 0
    with pytest.raises(FailedPrecondition, match="closed"):
        engine.generate([[5, 6]], PARAMS)


ENDS = {
    "at its end": "",
    "at once": "import os; os._exit(0)",
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_process_ends_while_experts_are_read(model: Path, end: str) -> None:
    """The warm set is read in the background as soon as an engine is opened; nobody waits for it."""
    program = f"""
from triptych.engine import Engine, SamplingParams
from triptych.experts.settings import Bytes, OffloadSettings
settings = OffloadSettings(budget=Bytes({POOL}), readers=3)
engine = Engine({str(model)!r}, kv_cache_memory=1 << 22, threads=1, expert_offload=settings)
engine.generate([[1, 2, 3]], SamplingParams(temperature=0, max_tokens=2, ignore_eos=True))
engine.core.decoder.residency.prefetch(1, __import__("torch").rand(1, 16), 8)
print("ends", flush=True)
{end}
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "ends\n"), ended.stderr
