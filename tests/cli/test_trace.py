"""`triptych trace` against a fake cluster."""

import json
from collections.abc import Callable
from pathlib import Path

from triptych.client.testing import FakeServer

Run = Callable[..., tuple[int, str, str]]


def test_a_trace_of_some_workers_is_written(server: FakeServer, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    status, out, _ = run("trace", "decode-0", "prefill-0", "--steps", 3, "-o", path, "--address", server.address)
    assert (status, out) == (
        0,
        f"decode-0: 3 of 3 steps, 3 spans\nprefill-0: 3 of 3 steps, 3 spans\nwritten to {path}\n",
    )
    events = json.loads(path.read_text())["traceEvents"]
    assert [(e["pid"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"] == [
        (pid, 10_000.0 * step, 8000.0) for pid in (0, 1) for step in range(3)
    ]


def test_all_workers_are_traced_by_default(server: FakeServer, run: Run, tmp_path: Path) -> None:
    _, out, _ = run("trace", "--steps", 1, "-o", tmp_path / "out.json", "--address", server.address)
    assert [line.split(":")[0] for line in out.splitlines()[:-1]] == ["encode-0", "prefill-0", "decode-0"]


def test_a_worker_that_is_not_there_is_one_line(server: FakeServer, run: Run, tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    status, out, err = run("trace", "decode-7", "-o", path, "--address", server.address)
    assert (status, out) == (1, "")
    assert "there is no worker 'decode-7'; there are encode-0, prefill-0, decode-0" in err
    assert not path.exists()
