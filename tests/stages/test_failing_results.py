"""A result that cannot be sent ends its own job; what the others of the same step got is theirs."""

import time
from typing import Any

from triptych.core.trace import Recorder
from triptych.engine import Engine
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.decoder_stage import DecoderStage
from triptych.stages.identity import Identity
from triptych.stages.messages import Command


class BrokenOnce:
    """Movers whose first push raises."""

    def __init__(self) -> None:
        self.pushed: list[str] = []
        self.broken = True

    def push(self, key: Any, *_: Any, last: bool) -> None:
        if self.broken:
            self.broken = False
            raise RuntimeError("no route")
        self.pushed.append(key.request_id)


class Session:
    """Keeps what it is to send."""

    router_id = "r"

    def __init__(self) -> None:
        self.sent: list[pb.ConnectResponse] = []

    def send(self, event: pb.ConnectResponse) -> None:
        self.sent.append(event)


def test_one_push_that_raises_costs_the_others_nothing() -> None:
    core = Engine("builtin:smollm2", kv_cache_memory=16 << 20).core
    movers: Any = BrokenOnce()
    session: Any = Session()
    stage = DecoderStage(core, movers, Identity("w", "1", pb.DataEndpoint()), time.monotonic, Recorder())
    for name in ("a", "b", "c"):
        ticket = None if name == "c" else pb.Ticket(ticket_id=name)
        prefill = pb.Prefill(key=pb.OperationKey(request_id=name), token_ids=[5, 6, 7], ticket=ticket)
        prefill.sampling.max_tokens = 4
        stage.handle(Command(session, pb.ConnectRequest(prefill=prefill), time.monotonic()))
    while stage.turn():
        pass
    sent = session.sent
    [failed] = [event.failed for event in sent if event.HasField("failed")]
    assert failed.key.request_id == "a"
    assert "no route" in failed.message
    assert movers.pushed == ["b"]
    done = [event.prefill_done.key.request_id for event in sent if event.HasField("prefill_done")]
    assert done == ["b", "c"]
    tokens = [delta for event in sent if event.HasField("step_tokens") for delta in event.step_tokens.deltas]
    assert [delta.key.request_id for delta in tokens] == ["c"] * 3
