"""A stage worker: streams to routers, and behind them a vision part, a language part, or both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from triptych.core.fleet.stage import Stage
from triptych.core.fleet.worker import Introduction, Report
from triptych.core.generation import OperationKey
from triptych.simulator import messages as msg
from triptych.simulator.decoder import Decoder
from triptych.simulator.encoder import Encoder
from triptych.simulator.machine import Machine
from triptych.simulator.receiver import Receiver
from triptych.simulator.streams import Side
from triptych.simulator.words import words

if TYPE_CHECKING:
    from triptych.simulator.world import World

HEARTBEAT_SECONDS = 2.0
SILENCE_SECONDS = 10.0
REPORT_SECONDS = 0.1

Stream = Side[msg.ToRouter, msg.ToWorker]


@dataclass(slots=True, eq=False)
class Session:
    """One router's stream."""

    number: int
    worker: Worker
    stream: Stream
    router_id: str = ""
    heard: float = 0.0

    def send(self, message: msg.ToRouter, size: int = 0) -> None:
        """To the router."""
        if self.stream.open:
            self.worker.world.check.told(self.worker, message)
            if self.worker.world.transcript.on and not isinstance(message, msg.LoadReport):
                self.worker.note("router", words(message))
            self.stream.send(message, size)

    def received(self, message: msg.ToWorker) -> None:
        """From the router."""
        self.heard = self.worker.now
        self.worker.obey(self, message)

    def ended(self, reason: str) -> None:
        """The stream is over."""
        self.worker.note("", f"a router's stream has ended: {reason}")
        self.worker.drop(self)


class Worker(Machine):
    """A worker's process.

    Args:
        worker_id: Its name in the cluster.
        incarnation: Its process's name.
        role: What routers send it.
        encodes: Whether it has the vision part.
        world: What it is part of.
    """

    def __init__(self, worker_id: str, incarnation: str, role: Stage, encodes: bool, world: World) -> None:
        super().__init__(worker_id, world, world.clock(worker_id))
        cluster = world.spec.cluster
        self.incarnation = incarnation
        self.role = role
        self.draining = False
        self.slowness = 1.0
        self.sessions: dict[int, Session] = {}
        self._streams = 0
        self.encoder = Encoder(self) if encodes else None
        self.decoder = Decoder(self) if role is not Stage.ENCODE else None
        stages = frozenset({Stage.ENCODE} if self.encoder else ()) | frozenset(
            {Stage.PREFILL, Stage.DECODE} if self.decoder else ()
        )
        blocks = cluster.kv_blocks if self.decoder else 0
        self.introduction = Introduction(worker_id, incarnation, role, stages, blocks, cluster.block_size)
        self._last_report: Report | None = None
        self._report_due = False
        self._hangs_idle = False
        self.every(HEARTBEAT_SECONDS, self._refresh, self.io)

    @property
    def receiver(self) -> Receiver | None:
        """Where KV is sent to."""
        return self.decoder.receiver if self.decoder else None

    def accept(self, stream: Stream) -> None:
        """A router has opened a stream."""
        self._streams += 1
        session = Session(self._streams, self, stream, heard=self.now)
        stream.listener = session
        self.open[stream] = None
        self.sessions[session.number] = session
        self._listen(session)

    def obey(self, session: Session, message: msg.ToWorker) -> None:
        """A message of a router."""
        match message:
            case msg.Hello(router_id):
                session.router_id = router_id
                session.send(msg.Welcome(replace(self.introduction, draining=self.draining)))
            case msg.Heartbeat():
                if self.receiver:
                    self.receiver.renew(session.router_id)
            case msg.Drain():
                self.draining = True
                if self.encoder:
                    self.encoder.drain()
                if self.decoder:
                    self.decoder.drain()
            case msg.Encode():
                if self.encoder:
                    self.encoder.encode(session, message)
            case msg.Free(key):
                self._free(session, key)
            case msg.Prefill() | msg.Reserve() | msg.Decode():
                if self.decoder:
                    self.decoder.post((session, message))
        self._meet_work()
        self.touch()

    def hang(self) -> None:
        """Computation stands still for good. While there is nothing to compute, nobody can know and nobody cares."""
        self._hangs_idle = not self.report().runnable
        self.world.agenda.stop(self.compute)

    def drop(self, session: Session) -> None:
        """A router is gone."""
        self.sessions.pop(session.number, None)
        self.open.pop(session.stream, None)
        if self.encoder:
            self.encoder.end_session(session)
        if self.decoder:
            self.decoder.end_session(session)

    def touch(self) -> None:
        """Something has changed that the next report tells."""
        if not self._report_due:
            self._report_due = True
            self.after(REPORT_SECONDS, self._report_change, self.io)

    def report(self) -> Report:
        """The worker's own account."""
        steps = runnable = held = 0
        if self.decoder:
            engine = self.decoder.engine
            steps, runnable, held = engine.steps, engine.runnable + len(self.decoder.inbox), engine.memory.held
        if self.encoder:
            steps += self.encoder.control.ended_batches
            runnable += self.encoder.runnable
        return Report(steps, runnable, held, self.draining)

    def _meet_work(self) -> None:
        if self._hangs_idle and self.report().runnable:
            self._hangs_idle = False
            self.world.troubles.begin(0.0, self.world.spec.cluster.stall_seconds)

    def _free(self, session: Session, key: OperationKey) -> None:
        if self.encoder and self.decoder:
            self.encoder.forget(session, key)
        elif self.encoder:
            self.encoder.free(session, key)
        if self.decoder:
            self.decoder.post((session, msg.Free(key)))

    def _listen(self, session: Session) -> None:
        """Ends a stream that is silent for too long."""
        left = session.heard + SILENCE_SECONDS - self.now
        if session.number not in self.sessions:
            return
        if left > 0:
            self.after(left + 1e-6, lambda: self._listen(session), self.io)
            return
        session.stream.close()
        session.ended(f"nothing was heard for {SILENCE_SECONDS:g} seconds")

    def _report_change(self) -> None:
        self._report_due = False
        report = self.report()
        if report != self._last_report:
            self._tell(report)

    def _refresh(self) -> None:
        self._tell(self.report())

    def _tell(self, report: Report) -> None:
        self._last_report = report
        for session in list(self.sessions.values()):
            if session.router_id:
                session.send(msg.LoadReport(report))
