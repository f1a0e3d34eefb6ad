import io
from collections.abc import Callable, Iterator

import pytest

from triptych.cli.main import main
from triptych.client.testing import FakeServer, Say

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIPTYCH_ADDRESS", raising=False)
    monkeypatch.delenv("TRIPTYCH_TIMEOUT", raising=False)
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(Say("Hel"), Say("lo")) as running:
        yield running


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command; gives its exit status, standard output and standard error."""

    def run_command(*arguments: object, typed: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return run_command
