import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from triptych.cli.report import error_lines
from triptych.core.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PromptTooLong,
    ResourceExhausted,
    Unavailable,
)

Run = Callable[..., tuple[int, str, str]]

HEAVY = ("torch", "ray", "transformers", "grpc", "numpy")


@pytest.mark.parametrize("arguments", [("version",), ("--version",)])
def test_the_version(run: Run, arguments: tuple[str, ...]) -> None:
    assert run(*arguments) == (0, f"triptych {version('triptych')}\n", "")


def test_wrong_usage_exits_with_2(run: Run) -> None:
    for arguments in (("dance",), ("chat", "--loud"), ("chat", "--max-tokens", "many", "Hi")):
        status, out, err = run(*arguments)
        assert (status, out) == (2, "")
        assert "Usage: triptych" in err
        assert "Traceback" not in err


def test_help_names_every_command(run: Run) -> None:
    status, out, _ = run("--help")
    assert status == 0
    assert all(command in out for command in ("chat", "status", "bench", "version"))


def test_importing_the_command_imports_nothing_heavy() -> None:
    program = "import sys, triptych.cli.main; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not set(loaded) & set(HEAVY)


def test_chatting_imports_no_torch() -> None:
    program = "import sys, triptych.client, triptych.cli.conversation; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "grpc" in loaded
    assert not set(loaded) & {"torch", "ray", "transformers", "numpy"}


def test_an_error_is_one_line_with_field_request_and_hint() -> None:
    error = ResourceExhausted("the queue\nis full", field="queue", request_id="r1", retry_after=1.5)
    assert error_lines(error) == [
        "error: the queue",
        "  is full",
        "  field: queue",
        "  request: r1",
        "  hint: try again in 1.5 s",
    ]
    assert error_lines(InvalidArgument("no")) == ["error: no"]
    assert "--grpc" in error_lines(FailedPrecondition("port", field="router.grpc"))[-1]
    assert "serve" in error_lines(Unavailable("gone"))[-1]
    assert error_lines(Unavailable("no Ray", field="ray.address"))[-1] == "  field: ray.address"
    assert error_lines(ResourceExhausted("full")) == ["error: full"]
    assert error_lines(NotFound("no model", field="model")) == ["error: no model", "  field: model"]
    assert "--max-tokens" in error_lines(PromptTooLong("too long"))[-1]


def test_a_defect_is_reported_without_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("triptych.client.Client.__init__", broken)
    status, out, err = run("chat", "Hi")
    assert (status, out) == (1, "")
    assert err.startswith("error: a defect of triptych: ZeroDivisionError: oops\n")
    assert "Traceback" not in err
    (written,) = tmp_path.iterdir()
    assert str(written) in err
    assert "Traceback" in written.read_text()
