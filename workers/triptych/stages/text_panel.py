"""A worker of a model that gives embeddings: no KV, no pictures, nothing that another worker would fetch."""

from collections.abc import Callable

import psutil

from triptych.core.errors import Unimplemented
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages import events
from triptych.stages.messages import Command
from triptych.stages.session import Session
from triptych.stages.text_stage import TextStage


class TextPanel:
    """An encode worker that reads texts.

    Args:
        worker_id: Its name in the cluster.
        incarnation: Of this process.
        model: Name of the model.
        stage: Does the work.
    """

    def __init__(self, worker_id: str, incarnation: str, model: str, stage: TextStage) -> None:
        self.stage = stage
        self.recorder = stage.recorder
        self._worker_id = worker_id
        self._incarnation = incarnation
        self._model = model
        self._process = psutil.Process()
        self._draining = False

    def start(self, on_crash: Callable[[Exception], None]) -> None:
        """Begins to compute; `on_crash` is called with the reason should it not be able to go on."""
        self.stage.start(on_crash)

    def stop(self) -> None:
        """Ends computing."""
        self.stage.stop()

    def welcome(self) -> pb.Welcome:
        """How the worker introduces itself."""
        return pb.Welcome(
            worker_id=self._worker_id,
            incarnation=self._incarnation,
            stages=[pb.STAGE_ENCODE],
            role=pb.STAGE_ENCODE,
            model=self._model,
            draining=self._draining,
        )

    def handle(self, command: Command) -> None:
        """Hands a command to the stage."""
        request = command.request
        match request.WhichOneof("command"):
            case "heartbeat" | "hello" | "balance_experts" | None:
                pass
            case "embed":
                self.stage.embed(command)
            case "free":
                self.stage.free(command)
            case kind:
                refusal = Unimplemented(f"worker {self._worker_id} cannot {kind}: it embeds texts")
                command.session.send(events.failed(getattr(request, kind).key, refusal))

    def drain(self) -> None:
        """No new operation from now on."""
        self._draining = True
        self.stage.drain()

    def drop_session(self, session: Session) -> None:
        """A router is gone."""
        self.stage.drop_session(session)

    def report(self) -> pb.LoadReport:
        """The worker's state."""
        resident = self._process.memory_info().rss >> 20 << 20  # less than a MiB more or less is no news
        report = pb.LoadReport(resident_bytes=resident, draining=self._draining)
        self.stage.report(report)
        return report
