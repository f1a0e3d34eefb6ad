"""What the requests of a step hear that could not be computed."""

import time
from typing import Any

import pytest

from triptych.core.errors import Internal, TriptychError, Unavailable
from triptych.core.trace import Recorder
from triptych.engine import Engine
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.decoder_stage import DecoderStage
from triptych.stages.identity import Identity
from triptych.stages.messages import Command


class Session:
    """Keeps what it is sent."""

    router_id = "r"

    def __init__(self) -> None:
        self.events: list[pb.ConnectResponse] = []

    def send(self, event: pb.ConnectResponse) -> None:
        self.events.append(event)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Unavailable("experts could not be read"), Unavailable("experts could not be read")),
        (RuntimeError("out of luck"), Internal("the worker failed to compute: out of luck")),
    ],
)
def test_another_worker_is_worth_a_try_where_this_one_cannot_read(
    error: Exception, told: TriptychError, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = Engine("builtin:smollm2", kv_cache_memory=16 << 20).core
    movers: Any = None  # a prompt that goes nowhere needs none
    session: Any = Session()
    stage = DecoderStage(core, movers, Identity("w", "1", pb.DataEndpoint()), time.monotonic, Recorder())

    def fail(*_: object) -> None:
        raise error

    def ask(name: str) -> list[pb.ConnectResponse]:
        prefill = pb.Prefill(key=pb.OperationKey(request_id=name), token_ids=[5, 6, 7])
        prefill.sampling.max_tokens = 4
        session.events.clear()
        stage.handle(Command(session, pb.ConnectRequest(prefill=prefill), time.monotonic()))
        while stage.turn():
            pass
        return list(session.events)

    with monkeypatch.context() as patch:
        patch.setattr(core.runner, "launch", fail)
        [event] = [event for event in ask("a") if event.HasField("failed")]
    assert (event.failed.code, event.failed.message) == (told.code, told.message)
    assert not any(event.HasField("failed") for event in ask("b"))
