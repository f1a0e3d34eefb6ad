"""One router's stream to a worker that computes nothing."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from triptych.core.generation import OperationKey
from triptych.core.stream import Fresh, Numbering, Ordering
from triptych.inference.v1 import sampling_pb2
from triptych.stage.v1 import stage_pb2 as pb


@dataclass(slots=True)
class Tally:
    """What a worker has seen and done, over all its streams.

    Attributes:
        opened: Operations begun.
        freed: Operations that ended by Free; those of a stream that broke are never freed.
        commands: Messages received, heartbeats included.
        events: Messages sent, Welcome and reports included.
        tokens: Tokens sent.
    """

    opened: int = 0
    freed: int = 0
    commands: int = 0
    events: int = 0
    tokens: int = 0


@dataclass(slots=True)
class Script:
    """What a worker says, and how fast.

    Attributes:
        vocabulary: Token ids that answers are made of.
        step_seconds: From one step to the next; 0 takes one whenever there is room for its message.
    """

    vocabulary: range
    step_seconds: float = 0.0

    def token(self, prompt_length: int, place: int) -> int:
        """The token at a place of the answer to a prompt of that length."""
        return self.vocabulary[(prompt_length + place) % len(self.vocabulary)]


@dataclass(slots=True)
class _Answer:
    """What is held for one operation: the next token's place in the answer, and the place after the last."""

    key: pb.OperationKey
    prompt_length: int
    place: int
    end: int


class QuickStream:
    """Answers the commands of one router; a step yields a token of every running operation.

    Args:
        script: What to say.
        tally: Counts for the worker.

    Attributes:
        held: Operations whose Free has not come.
    """

    def __init__(self, script: Script, tally: Tally) -> None:
        self.held: dict[OperationKey, _Answer] = {}
        self._script = script
        self._tally = tally
        self._running: dict[OperationKey, _Answer] = {}
        self._unsent: deque[pb.ConnectResponse] = deque()
        self._news = asyncio.Event()
        self._numbering, self._ordering = Numbering(), Ordering()
        self._steps = 0
        self._over = False

    async def events(self) -> AsyncIterator[pb.ConnectResponse]:
        """What the worker says, up to the end."""
        loop, due = asyncio.get_running_loop(), 0.0
        while not self._over:
            pause = max(0.0, due - loop.time()) if self._running else None
            if self._unsent:
                yield self._counted(self._unsent.popleft())
            elif pause == 0:
                due = loop.time() + self._script.step_seconds
                yield self._counted(self._step())
            else:
                await self._wait(pause)

    def _counted(self, event: pb.ConnectResponse) -> pb.ConnectResponse:
        event.number = self._numbering.next()
        self._tally.events += 1
        return event

    async def _wait(self, pause: float | None) -> None:
        self._news.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._news.wait()

    def say(self, event: pb.ConnectResponse) -> None:
        """Goes out before the next step."""
        self._unsent.append(event)
        self._news.set()

    def end(self) -> None:
        """Hangs up."""
        self._over = True
        self._news.set()

    async def read(self, requests: AsyncIterator[pb.ConnectRequest]) -> None:
        """Obeys every command, and hangs up after the last one or when one is missing."""
        async for request in requests:
            if self._ordering.accept(request.number) != Fresh():
                break
            self._tally.commands += 1
            self._obey(request)
        self.end()

    def _obey(self, request: pb.ConnectRequest) -> None:
        match request.WhichOneof("command"):
            case "reserve":
                self._reserve(request.reserve)
            case "prefill":
                self._prefill(request.prefill)
            case "decode":
                self._decode(request.decode)
            case "free":
                self._free(request.free.key)
            case "heartbeat":
                self.say(pb.ConnectResponse(load_report=self._report()))
            case _:
                pass

    def _open(
        self, key: pb.OperationKey, length: int, answered: int, sampling: sampling_pb2.SamplingParams
    ) -> _Answer:
        answer = _Answer(key, length, answered, sampling.max_tokens)
        self.held[_key(key)] = answer
        self._tally.opened += 1
        return answer

    def _reserve(self, reserve: pb.Reserve) -> None:
        self._open(reserve.key, len(reserve.prompt_token_ids), len(reserve.emitted_token_ids), reserve.sampling)
        ticket = pb.Ticket(ticket_id=f"{reserve.key.request_id} {reserve.key.epoch}", blocks=1)
        self.say(pb.ConnectResponse(reserved=pb.Reserved(key=reserve.key, ticket=ticket)))

    def _prefill(self, prefill: pb.Prefill) -> None:
        answer = self._open(prefill.key, len(prefill.token_ids), len(prefill.emitted_token_ids), prefill.sampling)
        first = self._delta(answer)
        first.ClearField("key")
        self.say(pb.ConnectResponse(prefill_done=pb.PrefillDone(key=prefill.key, token=first)))
        if not prefill.HasField("ticket"):
            self._run(answer)

    def _decode(self, decode: pb.Decode) -> None:
        if answer := self.held.get(_key(decode.key)):
            answer.place = len(decode.emitted_token_ids)
            self.say(pb.ConnectResponse(kv_ready=pb.KvReady(key=decode.key)))
            self._run(answer)

    def _run(self, answer: _Answer) -> None:
        if answer.place < answer.end:
            self._running[_key(answer.key)] = answer
            self._news.set()

    def _free(self, key: pb.OperationKey) -> None:
        self._running.pop(_key(key), None)
        if self.held.pop(_key(key), None):
            self._tally.freed += 1
        self.say(pb.ConnectResponse(freed=pb.Freed(key=key)))

    def _step(self) -> pb.ConnectResponse:
        self._steps += 1
        deltas = [self._delta(answer) for answer in self._running.values()]
        for key in [key for key, answer in self._running.items() if answer.place == answer.end]:
            del self._running[key]
        return pb.ConnectResponse(step_tokens=pb.StepTokens(deltas=deltas))

    def _delta(self, answer: _Answer) -> pb.TokenDelta:
        place, answer.place = answer.place, answer.place + 1
        self._tally.tokens += 1
        ends = answer.place == answer.end
        reason = sampling_pb2.FINISH_REASON_LENGTH if ends else sampling_pb2.FINISH_REASON_UNSPECIFIED
        return pb.TokenDelta(
            key=answer.key,
            token_ids=[self._script.token(answer.prompt_length, place)],
            finish_reason=reason,
            first=place,
        )

    def _report(self) -> pb.LoadReport:
        return pb.LoadReport(
            running_requests=len(self.held),
            held_blocks=len(self.held),
            runnable_requests=len(self._running),
            steps=self._steps,
        )


def _key(key: pb.OperationKey) -> OperationKey:
    return OperationKey(key.request_id, key.epoch)
