"""One worker's parts, put together: what it can do, what it reports, how it starts and stops."""

from collections.abc import Callable
from dataclasses import dataclass

import psutil

from triptych.core.errors import Unimplemented
from triptych.core.fleet import Stage
from triptych.core.trace import Recorder
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages import events
from triptych.stages.decoder_stage import DecoderStage
from triptych.stages.encode_stage import EncodeStage
from triptych.stages.expert_balance import balance_to_proto
from triptych.stages.identity import Identity
from triptych.stages.inbox import ComputeThread, Inbox
from triptych.stages.messages import Command, Drained, SessionEnded
from triptych.stages.movers import Movers
from triptych.stages.session import Session
from triptych.transfer import TransferServer
from triptych.wire.stage import stage_to_proto


@dataclass(frozen=True, slots=True)
class Decoding:
    """The part of a worker that runs the language model.

    Attributes:
        stage: Its control.
        inbox: Of the control's messages.
        thread: Drives both.
        movers: Of KV and embeddings.
        dismiss: Lets go of the worker's other ranks, where there are any; after everything else.
    """

    stage: DecoderStage
    inbox: Inbox
    thread: ComputeThread
    movers: Movers
    dismiss: Callable[[], None]


class WorkerPanel:
    """A worker that encodes, decodes, or does both.

    Args:
        identity: Who it is.
        role: What the router will send it.
        model: Name of the model.
        transfers: Its transfer server.
        encoding: The vision part, if it has one.
        decoding: The language part, if it has one.
        recorder: Of what they all do.
    """

    def __init__(
        self,
        identity: Identity,
        role: Stage,
        model: str,
        transfers: TransferServer,
        encoding: EncodeStage | None,
        decoding: Decoding | None,
        recorder: Recorder,
    ) -> None:
        self.recorder = recorder
        self.encoding = encoding
        self.decoding = decoding
        self._identity = identity
        self._role = role
        self._model = model
        self._transfers = transfers
        self._process = psutil.Process()
        self._draining = False

    def start(self, on_crash: Callable[[Exception], None]) -> None:
        """Begins to compute; `on_crash` is called with the reason should it not be able to go on."""
        if self.encoding:
            self.encoding.start(on_crash)
        if self.decoding:
            self.decoding.thread.start(on_crash)

    def stop(self) -> None:
        """Ends computing, then moving."""
        if self.encoding:
            self.encoding.stop()
        if self.decoding:
            self.decoding.thread.stop()
            self.decoding.movers.close()
            self.decoding.dismiss()
        self._transfers.shutdown()
        if self.encoding:
            self.encoding.store.close()

    def welcome(self) -> pb.Welcome:
        """How the worker introduces itself."""
        stages = [pb.STAGE_ENCODE] if self.encoding else []
        stages += [pb.STAGE_PREFILL, pb.STAGE_DECODE] if self.decoding else []
        pool = self.decoding.stage.core.scheduler if self.decoding else None
        return pb.Welcome(
            worker_id=self._identity.worker_id,
            incarnation=self._identity.incarnation,
            stages=stages,
            role=stage_to_proto(self._role),
            model=self._model,
            block_size=pool.block_size if pool else 0,
            total_blocks=pool.pool.count if pool else 0,
            draining=self._draining,
            lanes=self.decoding.stage.core.decoder.mesh.parallelism.lanes if self.decoding else 0,
        )

    def handle(self, command: Command) -> None:
        """Hands a command to the part that it is for."""
        request, encoding, decoding = command.request, self.encoding, self.decoding
        match request.WhichOneof("command"):
            case "heartbeat" if decoding:  # not by way of the inbox: a long step must not cost a lease
                decoding.movers.renew(command.session.router_id)
            case "balance_experts" if decoding and (balancer := decoding.stage.core.balancer):
                balancer.force()
            case "heartbeat" | "hello" | "balance_experts" | None:
                pass
            case "encode" if encoding:
                encoding.encode(command)
            case "free":
                self._free(command)
            case "prefill" | "reserve" | "decode" if decoding:
                decoding.inbox.post(command)
            case kind:
                refusal = Unimplemented(f"worker {self._identity.worker_id} cannot {kind}")
                command.session.send(events.failed(getattr(request, kind).key, refusal))

    def _free(self, command: Command) -> None:
        """Both parts may hold something; one of them acknowledges."""
        if self.encoding and self.decoding:
            self.encoding.forget(command)
        elif self.encoding:
            self.encoding.free(command)
        if self.decoding:
            self.decoding.inbox.post(command)

    def drain(self) -> None:
        """No new operation from now on: nobody stops what runs, and there is no way back."""
        self._draining = True
        if self.encoding:
            self.encoding.drain()
        if self.decoding:
            self.decoding.inbox.post(Drained())

    def drop_session(self, session: Session) -> None:
        """A router is gone."""
        if self.encoding:
            self.encoding.drop_session(session)
        if self.decoding:
            self.decoding.inbox.post(SessionEnded(session))

    def report(self) -> pb.LoadReport:
        """The worker's state, as its compute threads last left it."""
        report = pb.LoadReport()
        if self.decoding:
            report.CopyFrom(self.decoding.thread.load)
            # A thread that hangs takes no message and says nothing new: what lies before it gives it away.
            report.runnable_requests += self.decoding.inbox.waiting
            if balancer := self.decoding.stage.core.balancer:
                report.experts.CopyFrom(balance_to_proto(balancer.balance))
        report.resident_bytes = self._process.memory_info().rss >> 20 << 20  # less than a MiB more or less is no news
        report.draining = self._draining
        if self.encoding:
            self.encoding.report(report)
        return report
