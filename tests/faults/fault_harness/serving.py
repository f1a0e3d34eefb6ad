"""`triptych serve` and `ray start` as an operator runs them, to be killed and started again."""

import contextlib
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from fault_harness.cluster import END_SECONDS, START_SECONDS

READY = re.compile(r" serves as \S+ on (\S+) after")
OBJECT_STORE_BYTES = 80 << 20
RAY_ENVIRONMENT = {"PYTHONSAFEPATH": "1", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
"""Ray's own processes and whoever joins them share a token that nobody else has."""


def free_port() -> int:
    """A port that nobody listens on now, below those that connections on their way out are given."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass
class Serve:
    """A `triptych serve` that can be started any number of times, always at the same address.

    Attributes:
        options: Of the command.
        said: Everything that it has said on stderr.
    """

    options: list[str]
    address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    said: str = ""
    process: "subprocess.Popen[str] | None" = None

    def start(self) -> None:
        """Returns when it serves."""
        self.process = subprocess.Popen(
            [_command("triptych"), "serve", *self.options, "--grpc", self.address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | RAY_ENVIRONMENT | {"COLUMNS": "500"},
        )
        overdue = threading.Timer(START_SECONDS, self.process.kill)
        overdue.start()
        heard = ""
        assert self.process.stderr is not None
        while not READY.search(heard):
            line = self.process.stderr.readline()
            assert line, f"triptych serve ended with {self.process.wait()}: {self.said[-4000:]}"
            heard += line
            self.said += line
        overdue.cancel()
        threading.Thread(target=self._listen, args=(self.process,), daemon=True).start()

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=END_SECONDS)

    def _listen(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self.said += line


@contextmanager
def ray_head(folder: Path) -> Iterator[str]:
    """A Ray cluster of this machine alone; its address. Nothing of it is left at the end."""
    port = free_port()
    options = ["--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={folder}"]
    options += ["--include-dashboard=false", "--num-cpus=8", f"--object-store-memory={OBJECT_STORE_BYTES}"]
    options += [f"--ray-client-server-port={free_port()}", "--disable-usage-stats"]
    process = subprocess.Popen(
        [_command("ray"), "start", *options],
        stdout=(folder / "ray.log").open("w"),
        stderr=subprocess.STDOUT,
        env=os.environ | RAY_ENVIRONMENT,
    )
    try:
        _await_started(process, folder)
        yield f"127.0.0.1:{port}"
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=END_SECONDS)
        for member in psutil.wait_procs(family, timeout=10)[1]:
            member.kill()


def _await_started(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    overdue = threading.Event()
    timer = threading.Timer(START_SECONDS, overdue.set)
    timer.start()
    while "Ray runtime started" not in (said := (folder / "ray.log").read_text()):
        assert process.poll() is None, f"ray start: {said[-2000:]}"
        assert not overdue.wait(0.1), f"ray start: {said[-2000:]}"
    timer.cancel()


def _command(name: str) -> str:
    return str(Path(sys.executable).with_name(name))
