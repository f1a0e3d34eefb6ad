"""Who takes part: the commands that print JSON lines, and whether they can be run here."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PEERS = HERE.parent / "peers"
TIMEOUT_SECONDS = 1200


@dataclass(frozen=True)
class Models:
    """One model twice.

    Attributes:
        folder: Hugging Face layout, bfloat16.
        gguf: The file that it was made from, Q4_1.
    """

    folder: Path
    gguf: Path


@dataclass(frozen=True)
class Contestant:
    """One way of running the model.

    Attributes:
        name: In results and tables.
        command: Prints JSON lines.
        program: Has to exist; the interpreter of a peer.
    """

    name: str
    command: tuple[str, ...]
    program: Path

    @property
    def installed(self) -> bool:
        """Whether it can be run here."""
        return self.program.exists()

    def run(self) -> Iterator[dict[str, Any]]:
        """Runs it and gives its lines.

        Raises:
            ChildProcessError: it failed; says how it ended.
        """
        # A thread count of the caller's environment would bind some contestants and not others.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
        done = subprocess.run(
            self.command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
        yield from (json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"peer"'))
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
            raise ChildProcessError(f"exit status {done.returncode}: {said[-1]:.300}")


def contestants(models: Models, threads: int) -> tuple[Contestant, ...]:
    """Everyone, those who are compared with each other side by side."""
    home = Path(os.environ.get("PEERS_HOME") or Path.home() / ".cache" / "triptych-peers")
    folder, gguf = str(models.folder), str(models.gguf)
    return (
        _peer(home, "vllm", folder, threads),
        _engine("bf16", threads, folder, "--dtype", "bfloat16"),
        _script("cluster", folder, "--threads", str(threads)),
        _script("load", "--threads", str(threads)),
        _peer(home, "llamacpp", gguf, threads, "--batches", "1"),
        _engine("gguf", threads, gguf, "--quantization", "gguf"),
        _peer(home, "openvino", gguf, threads),
        _engine("int8", threads, gguf, "--quantization", "int8"),
        _peer(home, "hf", folder, threads, "--batches", "1"),
    )


def _peer(home: Path, name: str, model: str, threads: int, *options: str) -> Contestant:
    program = home / name / "bin" / "python"
    script = str(PEERS / "measure.py")
    return Contestant(name, (str(program), script, name, model, "--threads", str(threads), *options), program)


def _engine(form: str, threads: int, model: str, *options: str) -> Contestant:
    program = Path(sys.executable).with_name("triptych")
    command = (str(program), "bench", "engine", model, "--threads", str(threads), *options)
    return Contestant(f"triptych-{form}", command, program)


def _script(name: str, *options: str) -> Contestant:
    program = Path(sys.executable)
    return Contestant(f"triptych-{name}", (str(program), str(HERE / f"{name}.py"), *options), program)
