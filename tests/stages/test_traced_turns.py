"""What a decoder worker records of its turns."""

import time
from typing import Any

from triptych.core.trace import Lane, Recorder
from triptych.engine import Engine
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.decoder_stage import DecoderStage
from triptych.stages.identity import Identity
from triptych.stages.messages import Command


class Session:
    """Takes what it is sent."""

    router_id = "r"

    def send(self, event: pb.ConnectResponse) -> None:
        pass


def test_a_turn_without_anything_to_do_leaves_nothing_in_a_trace() -> None:
    core = Engine("builtin:smollm2", kv_cache_memory=16 << 20).core
    movers: Any = None  # a prompt that goes nowhere needs none
    session: Any = Session()
    recorder = Recorder()
    stage = DecoderStage(core, movers, Identity("w", "1", pb.DataEndpoint()), time.monotonic, recorder)
    recording = recorder.begin(100, lambda: None)
    assert not any(stage.turn() for _ in range(3))
    assert recording.spans == []
    prefill = pb.Prefill(key=pb.OperationKey(request_id="a"), token_ids=[5, 6, 7])
    prefill.sampling.max_tokens = 4
    stage.handle(Command(session, pb.ConnectRequest(prefill=prefill), time.monotonic()))
    while stage.turn():
        pass
    assert not any(stage.turn() for _ in range(3))
    names = [span.name for span in recording.spans if span.lane in (Lane.COMPUTE, Lane.TEXT)]
    assert sorted(names) == ["decode"] * 3 + ["prefill"] + ["tell tokens"] * 4
