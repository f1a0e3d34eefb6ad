"""A stage actor whose process obeys the tests: it sets traps and tells what it holds."""

import json
import os
import socketserver
import threading
import time
from pathlib import Path
from typing import Any

from fault_harness.traps import Deed, Point, Trap, TrapDoor
from fault_harness.wrappers import install

from triptych.controller.actor import StageActor
from triptych.stages.settings import StageSettings

FOLDER_VARIABLE = "TRIPTYCH_FAULTS_FOLDER"


def socket_of(folder: Path, pid: int) -> Path:
    """Where the worker process `pid` listens to the tests."""
    return folder / f"{pid}.socket"


class FaultyActor(StageActor):
    """Listens on a Unix socket of its own, one JSON line each way, so that no call of Ray's is needed to reach it."""

    def __init__(self, settings: StageSettings, **options: Any) -> None:
        super().__init__(settings, **options)
        self._trap_door = TrapDoor()
        install(self._trap_door)
        actor = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                answer = actor.obey(json.loads(self.rfile.readline()))
                self.wfile.write(json.dumps(answer).encode() + b"\n")

        server = socketserver.ThreadingUnixStreamServer(
            str(socket_of(Path(os.environ[FOLDER_VARIABLE]), os.getpid())), Handler
        )
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """Carries out what a test asks for."""
        match command.pop("do"):
            case "arm":
                point, deed = Point(command.pop("point")), Deed(command.pop("deed"))
                self._trap_door.arm(Trap(point, deed, **command))
                return {}
            case "disarm":
                self._trap_door.disarm()
                return {}
            case "count":
                return {"sprung": self._trap_door.sprung}
            case "audit":
                return self._audit()
            case unknown:
                return {"error": f"no such command: {unknown}"}

    def _audit(self) -> dict[str, Any]:
        """What the worker holds, from its own ledgers; raises nothing, because the answer has to arrive."""
        panel: Any = self._host and self._host.panel
        try:
            return _decoding(panel.decoding) | _encoding(panel.encoding)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"}


def _decoding(decoding: Any) -> dict[str, Any]:
    """Blocks, operations and leases of a decoder worker; only what is not as it should be at rest."""
    if decoding is None:
        return {}
    scheduler, leases = decoding.stage.core.scheduler, decoding.movers.receiver._gate._ledger.audit(time.monotonic())
    scheduler.check_integrity()
    audit = decoding.stage.jobs.audit()
    tickets = [state.reservation.ticket_id for state in leases.held]
    found = {
        "blocks": scheduler.pool.held_count,
        "operations": audit.by_state,
        "leases": tickets,
        "problems": audit.problems((sequence.key for sequence in scheduler.sequences()), tickets),
    }
    return {name: value for name, value in found.items() if value}


def _encoding(encoding: Any) -> dict[str, Any]:
    """Operations and embeddings of an encode worker; only what is not as it should be at rest."""
    if encoding is None:
        return {}
    audit = encoding.audit()
    found = {} if audit.quiescent else {"encoding": repr(audit)}
    return found | ({"encoding problems": audit.problems} if audit.problems else {})
