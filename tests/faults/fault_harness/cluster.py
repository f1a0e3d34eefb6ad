"""A cluster in a process of its own, as the tests see it: its client, its workers' processes, what they hold."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
from fault_harness.actor import FOLDER_VARIABLE, socket_of
from fault_harness.traps import Deed, Point

from triptych.client import Client, WorkerStatus

START_SECONDS = 300.0
END_SECONDS = 120.0
HERE = Path(__file__).parents[1]
ROUTER_COUNTS = ("running_requests", "awaiting_free", "waiting_requests")
WORKER_COUNTS = (
    *("running_requests", "queued_requests", "queued_images"),
    *("held_blocks", "open_leases", "held_embeddings"),
)


@dataclass(frozen=True)
class FaultyCluster:
    """A running cluster of `FaultyActor`s.

    Attributes:
        process: Router and controller.
        client: Of the router.
        folder: Where the workers' sockets and the log are.
    """

    process: subprocess.Popen[str]
    client: Client
    folder: Path

    def worker(self, worker_id: str) -> WorkerStatus:
        """The status of one worker."""
        [found] = [worker for worker in self.client.status().workers if worker.worker_id == worker_id]
        return found

    def tell(self, pid: int, **command: Any) -> dict[str, Any]:
        """Has a worker's process do something; see `FaultyActor.obey`."""
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(120)
            peer.connect(str(socket_of(self.folder, pid)))
            peer.sendall(json.dumps(command).encode() + b"\n")
            with peer.makefile() as lines:
                answer: dict[str, Any] = json.loads(lines.readline())
        assert "error" not in answer, answer
        return answer

    def arm(self, worker_id: str, point: Point, deed: Deed, *, after: int = 0, times: int = 1) -> int:
        """Sets a trap in a worker; its process."""
        pid = self.worker(worker_id).pid
        self.tell(pid, do="arm", point=point, deed=deed, after=after, times=times)
        return pid

    def disarm(self, pid: int) -> None:
        """Takes the trap out of a process that still lives."""
        self.tell(pid, do="disarm")

    def sprung(self, pid: int) -> int:
        """How often the trap in a process that still lives has sprung."""
        sprung: int = self.tell(pid, do="count")["sprung"]
        return sprung

    def held(self) -> dict[str, Any]:
        """What `held` of the status says, and what the workers' own ledgers do: that is not hearsay."""
        found = held(self.client)
        for worker in self.client.status().workers:
            for name, count in self.tell(worker.pid, do="audit").items():
                found[f"{worker.worker_id} audit {name}"] = count
        return found

    def require_idle(self, within: float = 120.0) -> None:
        """Every worker lives and holds nothing, and neither does the router."""
        wait_ready(self.client)
        eventually(lambda: not self.held(), within, self.held)

    def log(self) -> str:
        """What router, controller and workers have said."""
        return (self.folder / "log").read_text()


def eventually(condition: Callable[[], object], within: float, explain: Callable[[], object] = str) -> None:
    """Polls for something that another process is about to do."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"it did not happen within {within:g} s: {explain()}"
        time.sleep(0.02)


def wait_ready(client: Client, within: float = 240.0) -> None:
    """Until every worker is healthy."""

    def healthy() -> bool:
        status = client.status()
        return status.ready and all(worker.health == "healthy" for worker in status.workers)

    eventually(healthy, within, lambda: [(worker.worker_id, worker.health) for worker in client.status().workers])


def held(client: Client) -> dict[str, Any]:
    """Everything that somebody holds anywhere, by name, as the status has it; zeros left out."""
    status = client.status()
    found = {f"router {name}": getattr(status.router, name) for name in ROUTER_COUNTS}
    for worker in status.workers:
        found |= {f"{worker.worker_id} {name}": getattr(worker.load, name) for name in WORKER_COUNTS}
    return {name: count for name, count in found.items() if count}


@contextmanager
def running(settings: str, folder: Path) -> Iterator[FaultyCluster]:
    """A cluster with these settings, as YAML; at the end it must be idle."""
    (folder / "cluster.yaml").write_text(settings)
    with (folder / "log").open("w") as log:
        process = _start(folder, log)
        try:
            with Client(_address(process, folder), timeout=300) as client:
                yield FaultyCluster(process, client, folder)
        finally:
            end(process)


def environment(folder: Path) -> dict[str, str]:
    """With which the actors' class is found, and finds the folder."""
    path = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", FOLDER_VARIABLE: str(folder)}


def end(process: "subprocess.Popen[str]") -> None:
    """SIGTERM, and worse for whoever does not hear it."""
    family = [] if process.poll() is not None else psutil.Process(process.pid).children(recursive=True)
    for member in family:  # one that stands still would be waited for
        member.send_signal(signal.SIGCONT)
    process.terminate()
    try:
        process.wait(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    finally:
        for member in psutil.wait_procs(family, timeout=10)[1]:
            member.kill()


def _start(folder: Path, log: IO[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(HERE / "faulty_cluster.py"), str(folder / "cluster.yaml")],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment(folder),
    )


def _address(process: "subprocess.Popen[str]", folder: Path) -> str:
    overdue = threading.Timer(START_SECONDS, process.kill)
    overdue.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("ready "):
                return line.split()[1]
        raise AssertionError(f"the cluster ended with {process.wait()}: {(folder / 'log').read_text()[-4000:]}")
    finally:
        overdue.cancel()
