"""The compute thread of a decoder worker: messages between steps, steps while there is work."""

import logging
import queue
from collections.abc import Callable

from triptych.core.errors import Internal
from triptych.stages.decoder_stage import DecoderStage
from triptych.stages.messages import Message, Unfenced
from triptych.stages.threads import VitalThread

IDLE_SECONDS = 0.25  # how late an idle worker may notice a deadline

logger = logging.getLogger(__name__)


class Inbox:
    """Where other threads leave messages."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[Message | Unfenced | None] = queue.SimpleQueue()

    @property
    def waiting(self) -> int:
        """Messages that nobody has taken yet."""
        return self._messages.qsize()

    def post(self, message: Message | Unfenced) -> None:
        """Leaves a message; from any thread."""
        self._messages.put(message)

    def close(self) -> None:
        """Ends the thread after the messages before."""
        self._messages.put(None)

    def take(self, timeout: float | None) -> list[Message | Unfenced | None]:
        """Everything that is there; waits up to `timeout` seconds for the first, not at all for None."""
        taken: list[Message | Unfenced | None] = []
        try:
            taken.append(self._messages.get(timeout=timeout) if timeout else self._messages.get_nowait())
            while True:
                taken.append(self._messages.get_nowait())
        except queue.Empty:
            return taken


class ComputeThread:
    """Drives a stage.

    Args:
        stage: Touched by this thread only.
        inbox: Where its messages come from.

    Attributes:
        load: The stage's load after the last turn; replaced, never changed, so that any thread may read it.
    """

    def __init__(self, stage: DecoderStage, inbox: Inbox) -> None:
        self.load = stage.load()
        self._stage = stage
        self._inbox = inbox
        self._thread = VitalThread("compute", self._run)

    def start(self, on_crash: Callable[[Exception], None]) -> None:
        """Begins; `on_crash` as `VitalThread.start`."""
        self._thread.start(on_crash)

    def stop(self) -> None:
        """Ends after the current step; idempotent."""
        self._inbox.close()
        self._thread.join()

    def _run(self) -> None:
        busy = False
        while True:
            for message in self._inbox.take(None if busy else IDLE_SECONDS):
                if message is None:
                    return
                self._handle(message)
            busy = self._stage.turn()
            self.load = self._stage.load()

    def _handle(self, message: Message | Unfenced) -> None:
        if isinstance(message, Unfenced):
            raise Internal(f"a transfer of operation {message.key} could not be fenced") from message.error
        try:
            self._stage.handle(message)
        except Exception:  # one bad message must not take the worker down with it
            logger.exception("a message of kind %s could not be handled", type(message).__name__)
