"""`triptych serve` with Ray, in a process of its own: Ray forks, which a process that speaks gRPC must not."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from triptych.client import Client, WorkerStatus
from triptych.core.fleet import Stage

READY = re.compile(r" serves as (\S+) on (\S+) after")
START_SECONDS = 300.0
END_SECONDS = 120.0

Process = subprocess.Popen[str]


@dataclass(frozen=True)
class Served:
    """A `triptych serve` process whose cluster is ready."""

    process: Process
    client: Client

    def worker(self, role: Stage) -> WorkerStatus:
        """The one worker of a role."""
        [found] = [worker for worker in self.client.status().workers if worker.role is role]
        return found

    def family(self) -> list[psutil.Process]:
        """The process, Ray's, and the workers."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]


def serve(*arguments: str) -> Process:
    """Starts the command; what it says comes on stderr, one line each."""
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("triptych")), "serve", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "500", "PYTHONSAFEPATH": "1"},
    )


def wait_until_ready(process: Process) -> str:
    """The address; fails with everything that the command said when it ends or takes too long."""
    overdue = threading.Timer(START_SECONDS, process.kill)
    overdue.start()
    said = ""
    try:
        assert process.stderr is not None
        while not (ready := READY.search(said)):
            line = process.stderr.readline()
            assert line, f"triptych serve ended with {process.wait()}: {said}"
            said += line
        return ready[2]
    finally:
        overdue.cancel()


def end(process: Process) -> None:
    """SIGTERM, and worse for whoever does not hear it."""
    family = [] if process.poll() is not None else psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.communicate(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    finally:
        for member in psutil.wait_procs(family, timeout=10)[1]:
            member.kill()


@contextmanager
def serving(settings: str, folder: Path) -> Iterator[Served]:
    """A cluster with these settings, as YAML, on a free port."""
    file = folder / "cluster.yaml"
    file.write_text(settings)
    process = serve("--config", str(file), "--grpc", "127.0.0.1:0")
    try:
        with Client(wait_until_ready(process), timeout=240) as client:
            yield Served(process, client)
    finally:
        end(process)


@pytest.fixture(name="serving", scope="session")
def _serving() -> Callable[[str, Path], AbstractContextManager[Served]]:
    return serving


@pytest.fixture(name="serve", scope="session")
def _serve() -> Callable[..., Process]:
    return serve
