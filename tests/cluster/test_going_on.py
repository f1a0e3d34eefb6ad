"""Workers go on from what earlier attempts answered, alone or one for the prompt and one for the answer."""

import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tests.support.doubt import doubtful_rows
from triptych.core.fleet import Stage
from triptych.inference.v1 import sampling_pb2
from triptych.models.resolve import resolve
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.build import build_panel
from triptych.stages.messages import Command
from triptych.stages.panel import WorkerPanel
from triptych.stages.settings import StageSettings

PROMPT = list(range(100, 113))
TOKENS = 20
GREEDY = sampling_pb2.SamplingParams(temperature=0.0, max_tokens=TOKENS, ignore_eos=True, logprobs=2)
SEEDED = sampling_pb2.SamplingParams(
    temperature=0.8, top_k=40, top_p=0.95, repetition_penalty=1.2, presence_penalty=0.6, frequency_penalty=0.4,
    max_tokens=TOKENS, ignore_eos=True, logprobs=2, seed=7,
)  # fmt: skip


@dataclass(eq=False)
class Router:
    """A router's session at one worker, without a stream."""

    panel: WorkerPanel
    router_id: str = "router"
    events: "queue.Queue[pb.ConnectResponse]" = field(default_factory=queue.Queue)

    def send(self, event: pb.ConnectResponse) -> None:
        """What the worker says."""
        self.events.put(event)

    def ask(self, **command: Any) -> None:
        self.panel.handle(Command(cast(Any, self), pb.ConnectRequest(**command), time.monotonic()))

    def hear(self, kind: str) -> Any:
        event = self.events.get(timeout=120)
        assert event.WhichOneof("event") == kind, event
        return getattr(event, kind)

    def deltas(self) -> list[pb.TokenDelta]:
        """Tokens up to the last."""
        found: list[pb.TokenDelta] = []
        while not found or not found[-1].finish_reason:
            found += self.hear("step_tokens").deltas
        return found

    def free(self, key: pb.OperationKey) -> None:
        self.ask(free=pb.Free(key=key))
        assert self.hear("freed").key == key
        assert self.panel.decoding
        assert self.panel.decoding.stage.jobs.audit().operations == {}
        assert self.panel.decoding.stage.core.scheduler.pool.held_count == 0


@pytest.fixture(params=[4, 16])
def routers(request: pytest.FixtureRequest, tiny_llama: Path) -> Iterator[tuple[Router, Router]]:
    """Two workers of the same model; answers are looked up nowhere."""
    files = resolve(str(tiny_llama))
    panels = [
        build_panel(
            StageSettings(
                f"decode-{n}", Stage.DECODE, files, dtype="float32", block_size=request.param,
                kv_cache_bytes=1 << 20, prefix_caching=False, max_batch_tokens=8,
            )
        )
        for n in range(2)
    ]  # fmt: skip
    for panel in panels:
        panel.start(lambda _: None)
    yield Router(panels[0]), Router(panels[1])
    for panel in panels:
        panel.stop()


def alone(
    one: Router, _: Router, asked: list[int], sampling: sampling_pb2.SamplingParams, emitted: list[int]
) -> list[pb.TokenDelta]:
    key = pb.OperationKey(request_id="alone", epoch=len(emitted))
    one.ask(prefill=pb.Prefill(key=key, token_ids=asked, sampling=sampling, emitted_token_ids=emitted))
    first = one.hear("prefill_done").token
    found = [first] if first.finish_reason else [first, *one.deltas()]
    one.free(key)
    return found


def apart(
    one: Router, two: Router, asked: list[int], sampling: sampling_pb2.SamplingParams, emitted: list[int]
) -> list[pb.TokenDelta]:
    key = pb.OperationKey(request_id="apart", epoch=len(emitted))
    prompt: dict[str, Any] = {"key": key, "sampling": sampling, "emitted_token_ids": emitted}
    two.ask(reserve=pb.Reserve(prompt_token_ids=asked, **prompt))
    ticket = two.hear("reserved").ticket
    one.ask(prefill=pb.Prefill(token_ids=asked, ticket=ticket, **prompt))
    first = one.hear("prefill_done").token
    found = [first]
    two.hear("kv_ready")
    if not first.finish_reason:
        two.ask(decode=pb.Decode(key=key, emitted_token_ids=[*emitted, *first.token_ids]))
        found += two.deltas()
    one.free(key)
    two.free(key)
    return found


@pytest.mark.parametrize("way", [alone, apart])
@pytest.mark.parametrize("sampling", [GREEDY, SEEDED], ids=["greedy", "seeded"])
def test_an_answer_goes_on_with_the_tokens_of_the_undisturbed_one(
    routers: tuple[Router, Router],
    way: Callable[..., list[pb.TokenDelta]],
    sampling: sampling_pb2.SamplingParams,
    rng: np.random.Generator,
) -> None:
    """From its places, those of a block's end among them; penalties, limits and places count what was said."""
    doubtful, prompt = {0}, PROMPT
    while doubtful:  # a token that is a matter of rounding may become another
        prompt = rng.integers(4, 260, len(PROMPT)).tolist()
        with doubtful_rows() as doubtful:
            whole = alone(*routers, prompt, sampling, [])
    assert [delta.first for delta in whole] == list(range(TOKENS))
    tokens = [token for delta in whole for token in delta.token_ids]
    for count in (1, 2, 3, 4, 7, TOKENS - 2, TOKENS - 1):
        rest = way(*routers, prompt, sampling, tokens[:count])
        assert [token for delta in rest for token in delta.token_ids] == tokens[count:]
        assert [delta.first for delta in rest] == list(range(count, TOKENS))
        assert rest[-1].finish_reason == whole[-1].finish_reason
        for delta, expected in zip(rest, whole[count:], strict=True):
            assert delta.logprobs[0].logprob == pytest.approx(expected.logprobs[0].logprob, abs=1e-3)


def test_a_complete_answer_is_not_gone_on_with(routers: tuple[Router, Router]) -> None:
    key = pb.OperationKey(request_id="complete", epoch=1)
    emitted = [5] * TOKENS
    routers[0].ask(prefill=pb.Prefill(key=key, token_ids=PROMPT, sampling=GREEDY, emitted_token_ids=emitted))
    [end] = routers[0].deltas()
    assert (end.first, list(end.token_ids), end.finish_reason) == (TOKENS, [], sampling_pb2.FINISH_REASON_LENGTH)
    routers[0].free(key)


def test_kv_of_one_answer_is_not_decoded_as_another(routers: tuple[Router, Router]) -> None:
    _, two = routers
    key = pb.OperationKey(request_id="another", epoch=1)
    two.ask(reserve=pb.Reserve(key=key, prompt_token_ids=PROMPT, sampling=GREEDY, emitted_token_ids=[5, 6]))
    two.hear("reserved")
    two.ask(decode=pb.Decode(key=key, emitted_token_ids=[5, 7, 8]))
    failed = two.hear("failed")
    assert (failed.field, failed.message) == ("emitted_token_ids", "Decode goes on from another answer than Reserve")
    two.free(key)


def test_a_reservation_is_a_lease_and_nothing_to_compute(routers: tuple[Router, Router]) -> None:
    router = routers[0]
    assert router.panel.decoding
    stage = router.panel.decoding.stage
    key = pb.OperationKey(request_id="reserved", epoch=1)
    router.ask(reserve=pb.Reserve(key=key, prompt_token_ids=PROMPT, sampling=GREEDY))
    router.hear("reserved")
    load = stage.load()
    assert (load.running_requests, load.open_leases, load.runnable_requests) == (1, 1, 0)
    router.free(key)
    assert stage.load().open_leases == 0
