"""The command as a person has it: a real process on a real terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from triptych.client.testing import FakeServer, Hold, Say

# The terminal must control the process for Ctrl-C to reach it, and whoever runs the tests may ignore the signal, as a
# shell has its background jobs do.
PROGRAM = (
    "import faulthandler, fcntl, signal, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "signal.signal(signal.SIGINT, signal.default_int_handler); faulthandler.register(signal.SIGUSR1); "
    "from triptych.cli.main import main; main()"
)

Start = Callable[..., "Terminal"]


class Terminal:
    """A process behind a pseudo-terminal."""

    def __init__(self, arguments: list[str]) -> None:
        self.screen, child = pty.openpty()
        program = [sys.executable, "-c", PROGRAM, *arguments]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "50", "PYTHONSAFEPATH": "1"}
        self.process = subprocess.Popen(
            program, stdin=child, stdout=child, stderr=child, env=environment, start_new_session=True
        )
        os.close(child)
        self.seen = ""

    def expect(self, text: str) -> None:
        """Reads until `text` has appeared after what was expected before."""
        assert self.appears(text, timeout=120.0), f"no {text!r}; the screen shows {self.seen!r}"

    def appears(self, text: str, timeout: float) -> bool:
        """Whether `text` appears within `timeout` seconds after what was expected before."""
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            ready, _, _ = select.select([self.screen], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return False
            try:
                self.seen += os.read(self.screen, 4096).decode(errors="replace")
            except OSError:  # the process has left its terminal
                return False
        self.seen = self.seen.partition(text)[2]
        return True

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())

    def type_until(self, text: str, wanted: str) -> None:
        """Types again each second: readline misses a signal that comes just before it waits for a key."""
        for _ in range(120):
            self.type(text)
            if self.appears(wanted, timeout=1.0):
                return
        pytest.fail(f"no {wanted!r}; the screen shows {self.seen!r}")

    def ends(self, code: int) -> None:
        """Waits for the process; where it does not end, says where its threads are."""
        try:
            found = self.process.wait(120)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGUSR1)
            self.appears("no such text", timeout=2.0)
            pytest.fail(f"it does not end; the screen shows {self.seen!r}")
        if found != code:
            self.appears("no such text", timeout=0.0)
            pytest.fail(f"it ended with {found}; the screen shows {self.seen!r}")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self.screen)


@pytest.fixture
def start() -> Iterator[Start]:
    terminals: list[Terminal] = []

    def begin(*arguments: str) -> Terminal:
        terminals.append(Terminal(list(arguments)))
        return terminals[-1]

    yield begin
    for terminal in terminals:
        terminal.close()


def test_ctrl_c_stops_the_answer_and_ctrl_d_leaves(start: Start) -> None:
    with FakeServer(Say("Hel"), Hold()) as server:
        terminal = start("chat", "--address", server.address)
        terminal.expect("> ")
        terminal.type("Hi\n")
        terminal.expect("Hel")
        terminal.type("\x03")
        assert server.wait_until_abandoned()
        terminal.expect("> ")
        terminal.type_until("\x03", "> ")
        terminal.type("Go on\n")
        terminal.expect("Hel")
        terminal.type("\x03")
        terminal.expect("> ")
        terminal.type("\x04")
        terminal.ends(0)
    roles = [message.role for message in server.requests[-1].prompt.messages]  # type: ignore[union-attr]
    assert roles == ["user", "assistant", "user"]


def test_ctrl_c_ends_a_single_question(start: Start) -> None:
    with FakeServer(Say("Hel"), Hold()) as server:
        terminal = start("chat", "--address", server.address, "Hi")
        terminal.expect("Hel")
        terminal.type("\x03")
        terminal.ends(130)
        assert server.wait_until_abandoned()


def test_what_a_model_says_cannot_command_the_terminal(start: Start) -> None:
    with FakeServer(Say("a\x1b]0;title\x07b\x9bc")) as server:
        terminal = start("chat", "--address", server.address, "Hi")
        terminal.expect("a\N{REPLACEMENT CHARACTER}]0;title\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c")
        terminal.expect("1 tokens")
        terminal.ends(0)


def test_status_refreshes_until_ctrl_c(start: Start) -> None:
    with FakeServer() as server:
        terminal = start("status", "--address", server.address)
        terminal.expect("decode-0")
        terminal.expect("decode-0")
        terminal.type("\x03")
        terminal.ends(0)
