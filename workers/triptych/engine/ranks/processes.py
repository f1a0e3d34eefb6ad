"""Followers as child processes of this one."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

from triptych.engine.ranks.joining import Invitation

_LEAVE = 5.0
"""Seconds that a follower has to end when it was told to."""


class RankProcesses:
    """One process for each invitation. They end with this one, however it ends.

    Args:
        invitations: Of ranks 1 and up.
        on_end: Called when a process has ended that nobody told to, with how it came.
    """

    def __init__(self, invitations: Sequence[Invitation], on_end: Callable[[str], object]) -> None:
        self._closing = threading.Event()
        self._processes = [start(invitation) for invitation in invitations]
        for invitation, process in zip(invitations, self._processes, strict=True):
            arguments = (invitation.rank, process, on_end)
            threading.Thread(target=self._watch, args=arguments, daemon=True, name="rank-watch").start()

    @property
    def pids(self) -> tuple[int, ...]:
        """Of ranks 1 and up."""
        return tuple(process.pid for process in self._processes)

    def join(self) -> None:
        """Waits for processes that have been told to end; those that do not are killed."""
        self._closing.set()
        for process in self._processes:
            try:
                process.wait(_LEAVE)
            except subprocess.TimeoutExpired:
                process.kill()
        self.kill()

    def kill(self) -> None:
        """Ends them at once, also those that are stopped, and waits until they are gone."""
        self._closing.set()
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
            assert process.stdin is not None
            process.stdin.close()

    def _watch(self, rank: int, process: subprocess.Popen[bytes], on_end: Callable[[str], object]) -> None:
        code = process.wait()
        if not self._closing.is_set():
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            on_end(f"rank {rank} (process {process.pid}) {how}")


def start(invitation: Invitation) -> subprocess.Popen[bytes]:
    """A process that joins a group; it ends when its standard input does."""
    threads = str(invitation.settings.threads)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "triptych.engine.ranks.child"],
        stdin=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": threads},
        start_new_session=True,  # an interrupt from the keyboard is the parent's to answer
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended already, and will be missed
        process.stdin.write(pickle.dumps(invitation))
        process.stdin.flush()
    return process
