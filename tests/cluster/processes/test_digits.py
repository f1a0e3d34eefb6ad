"""builtin:smollm2-digits as 1E1P1D: right answers, who opens which file, a worker killed, and the end."""

import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from triptych.cli.demo.digits import Digit, held_out_digits
from triptych.core.fleet import Stage
from triptych.models.resolve import resolve

MODEL = "builtin:smollm2-digits"
SETTINGS = f"""
model: {MODEL}
layout: 1E1P1D
dtype: bfloat16
kv_cache: {{memory: 128MiB}}
"""

pytestmark = pytest.mark.timeout(900)  # Ray starts, and models load, within the first test


@pytest.fixture(scope="module")
def served(serving: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with serving(SETTINGS, tmp_path_factory.mktemp("digits")) as served:
        yield served


@pytest.fixture(scope="module")
def language_shard() -> Path:
    """The largest file of the checkpoint: everything but the eye."""
    return max(resolve(MODEL).path.glob("*.safetensors"), key=lambda path: path.stat().st_size)


def read(served: Any, digit: Digit) -> str:
    return str(served.client.chat("What digit is in the image?", images=[digit.png], temperature=0.0).text)


def test_held_out_digits(served: Any) -> None:
    digits = held_out_digits()
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda digit: read(served, digit), digits))
    right = sum(answer == f"The digit is {digit.label}." for answer, digit in zip(answers, digits, strict=True))
    print(f"{right} of {len(digits)} digits are right")
    assert len(digits) == 297
    assert right >= 0.95 * len(digits)
    assert served.worker(Stage.ENCODE).load.encoded_images <= 297
    assert served.worker(Stage.DECODE).load.prefilled_tokens == 0


def mappings(pid: int) -> dict[str, tuple[int, dict[str, int]]]:
    """The mapped files of a process: inode, and KiB by kind of page."""
    found: dict[str, tuple[int, dict[str, int]]] = {}
    path = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        head = re.match(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ (\d+) +(.*)", line)
        if head:
            path = head[2]
            found.setdefault(path, (int(head[1]), {}))
        elif size := re.match(r"(\w+): +(\d+) kB", line):
            sizes = found[path][1]
            sizes[size[1]] = sizes.get(size[1], 0) + int(size[2])
    return found


def test_the_encode_worker_never_opens_the_language_model(served: Any, language_shard: Path) -> None:
    encode, decode = served.worker(Stage.ENCODE), served.worker(Stage.DECODE)
    links = Path(f"/proc/{encode.pid}/fd").iterdir()
    opened = {os.readlink(link) for link in links if link.is_symlink()} | mappings(encode.pid).keys()
    assert str(language_shard) not in opened
    assert not any(language_shard.name in path or path.endswith(".gguf") for path in opened)
    assert str(language_shard) in mappings(decode.pid)
    sizes = {worker.worker_id: psutil.Process(worker.pid).memory_info().rss >> 20 for worker in (encode, decode)}
    print(f"resident MiB: {sizes}")
    assert sizes["encode-0"] + (language_shard.stat().st_size >> 21) < sizes["decode-0"]


def test_prefill_and_decode_share_one_mapping_of_the_weights(served: Any, language_shard: Path) -> None:
    prefill, decode = (
        mappings(served.worker(role).pid)[str(language_shard)] for role in (Stage.PREFILL, Stage.DECODE)
    )
    assert prefill[0] == decode[0] == language_shard.stat().st_ino
    for _, kinds in (prefill, decode):
        assert kinds["Shared_Clean"] * 1024 > 0.9 * language_shard.stat().st_size
        assert kinds["Private_Dirty"] == 0


def test_a_killed_decode_worker_comes_back_and_goes_on_with_the_answer(served: Any, eventually: Any) -> None:
    before, digit = served.worker(Stage.DECODE), held_out_digits()[0]
    with served.client.stream("Once upon a time", max_tokens=400, ignore_eos=True) as stream:
        for _ in range(3):  # so that the decode worker has all KV, and nothing is in transfer
            next(stream)
        os.kill(before.pid, signal.SIGKILL)
        answer = stream.result()
    assert (len(answer.token_ids), answer.usage.completion_tokens, answer.usage.replays) == (400, 400, 1)
    eventually(lambda: served.client.status().ready and served.worker(Stage.DECODE).restarts == 1, 240.0)
    after = served.worker(Stage.DECODE)
    assert after.pid != before.pid
    assert after.incarnation != before.incarnation
    eventually(lambda: not psutil.pid_exists(before.pid), 60.0)
    assert read(served, digit) == f"The digit is {digit.label}."


def test_a_second_server_says_that_the_port_is_taken(served: Any, serve: Any) -> None:
    second = serve("builtin:smollm2", "--grpc", served.client.address)
    _, said = second.communicate(timeout=240)
    assert second.returncode == 1
    assert f"cannot listen on {served.client.address}" in said
    assert "Traceback" not in said
    assert served.client.generate("Still here?", max_tokens=2, ignore_eos=True).usage.completion_tokens == 2


def test_sigterm_ends_everything(served: Any) -> None:
    family = served.family()
    assert {worker.pid for worker in served.client.status().workers} <= {process.pid for process in family}
    served.process.terminate()
    _, said = served.process.communicate(timeout=240)
    assert served.process.returncode == 0
    assert "stopping" in said
    assert "Traceback" not in said
    gone, alive = psutil.wait_procs(family, timeout=60)
    assert not [process.name() for process in alive]
    assert len(gone) == len(family)
