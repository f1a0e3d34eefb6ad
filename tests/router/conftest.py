"""Routers and dispatchers with no model and no worker: what workers say is written by the test."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
import pytest_asyncio

from triptych.client import AsyncClient
from triptych.core.desk import Entry
from triptych.core.fleet import Stage
from triptych.core.generation import FinishReason
from triptych.core.plan import Demand, Placement, RoutingPolicy
from triptych.core.prompt import ImagePart, ImageSpan, Prompt
from triptych.core.sampling import SamplingParams
from triptych.core.stream import Fresh, Numbering, Ordering
from triptych.models.detokenize import IncrementalDetokenizer
from triptych.models.pictures.layout import MediaLayout, Rows
from triptych.router.call import Admitted, Call, CheckedMedia
from triptych.router.dispatch import Dispatcher
from triptych.router.fleet import WorkerAddress, introduction
from triptych.router.intake import Intake
from triptych.router.limits import RouterLimits
from triptych.router.server import Router
from triptych.router.testing import byte_intake
from triptych.router.testing.model import VOCABULARY
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stage.v1 import stage_pb2_grpc
from triptych.wire.generation import finish_reason_to_proto

ROLES = {Stage.ENCODE: pb.STAGE_ENCODE, Stage.PREFILL: pb.STAGE_PREFILL, Stage.DECODE: pb.STAGE_DECODE}
EVERYWHERE = ("encode-0", "encode-1", "prefill-0", "decode-0")
MODEL = "fake"
FOUR = MediaLayout(7, (Rows(4),), 4)


def welcome(worker_id: str, incarnation: str = "1", blocks: int = 0) -> pb.Welcome:
    role = ROLES[Stage(worker_id.partition("-")[0])]
    stages = [role] if role == pb.STAGE_ENCODE else [pb.STAGE_PREFILL, pb.STAGE_DECODE]
    return pb.Welcome(
        worker_id=worker_id,
        incarnation=incarnation,
        role=role,
        stages=stages,
        model=MODEL,
        block_size=16,
        total_blocks=blocks,
    )


class Letters:
    """A processor whose tokens are characters."""

    def open_stream(self, hidden: frozenset[int] | None = None) -> "Letters":
        return self

    def push(self, token_id: int) -> str:
        return chr(token_id)

    def flush(self) -> str:
        return ""


@dataclass
class Desk:
    """A dispatcher with connected workers that say nothing unless told to.

    `sent` are the commands so far, as (worker, kind), oldest first; `last` is the latest of each kind.
    """

    workers: tuple[str, ...] = EVERYWHERE
    max_running: int = 8
    max_retries: int = 0
    policy: RoutingPolicy = field(default_factory=RoutingPolicy)
    first_serial: int = 7

    def __post_init__(self) -> None:
        self.now = 100.0
        self.sent: list[tuple[str, str]] = []
        self.last: dict[str, pb.ConnectRequest] = {}
        self.cuts: list[str] = []
        self.entries: dict[Call, Entry] = {}
        limits = RouterLimits(routing=self.policy, max_running=self.max_running, max_retries=self.max_retries)
        self.dispatcher = Dispatcher(self, limits, lambda: self.now, self.first_serial)
        for worker_id in self.workers:
            self.dispatcher.connect(introduction(welcome(worker_id)))

    def send(self, worker_id: str, command: pb.ConnectRequest) -> None:
        kind = command.WhichOneof("command") or ""
        self.sent.append((worker_id, kind))
        self.last[kind] = command

    def cut(self, worker_id: str, reason: str) -> None:
        self.cuts.append(worker_id)

    def submit(self, request_id: str = "r", *, images: int = 0, **options: Any) -> Call:
        spans = tuple(ImageSpan(4 * i, 4, i) for i in range(images))
        request = Admitted(
            request_id,
            Prompt(tuple(range(1, 4 * images + 4)), spans),
            tuple(CheckedMedia(ImagePart(b"picture %d" % i), f"hash {i}", f"image {i}", FOUR) for i in range(images)),
            SamplingParams(seed=1, max_tokens=9),
            Demand(4 * images + 3, (4,) * images, options.pop("placement", Placement.ANY)),
            **options,
        )
        with self.dispatcher.seat(request.picture_bytes):
            call = self.dispatcher.submit(request, IncrementalDetokenizer(Letters(), ("stop",)), self.now)
        [self.entries[call]] = [entry for entry, work in self.dispatcher._works.items() if work.call is call]
        return call

    def hear(self, call: Call, worker_id: str, *, age: int = 0, incarnation: str = "1", **event: Any) -> None:
        """A worker says something of a call, or of its attempt `age` epochs ago."""
        [(kind, message)] = event.items()
        current = self.entries[call].record.key
        key = pb.OperationKey(request_id=current.request_id, epoch=current.epoch - age)
        if kind == "step_tokens":
            message.key.CopyFrom(key)
            message = pb.StepTokens(deltas=[message])
        else:
            message.key.CopyFrom(key)
        self.dispatcher.receive(worker_id, incarnation, pb.ConnectResponse(**{kind: message}))

    def freed(self, call: Call, *workers: str) -> None:
        for worker_id in workers:
            self.hear(call, worker_id, freed=pb.Freed())

    def encoded(self, call: Call, worker_id: str, *indices: int) -> None:
        handles = [pb.EmbeddingHandle(index=i, worker_id=worker_id, content_hash=f"hash {i}") for i in indices]
        self.hear(call, worker_id, encode_done=pb.EncodeDone(handles=handles))

    def reserved(self, call: Call, ticket: str = "ticket") -> None:
        self.hear(call, "decode-0", reserved=pb.Reserved(ticket=pb.Ticket(ticket_id=ticket)))

    def prefilled(self, call: Call, worker_id: str, text: str = "a", reason: FinishReason | None = None) -> None:
        token = letters(text, reason, self.entries[call].record.emitted)
        self.hear(call, worker_id, prefill_done=pb.PrefillDone(token=token))

    def decoded(self, call: Call, text: str, reason: FinishReason | None = None) -> None:
        self.hear(call, "decode-0", step_tokens=letters(text, reason, self.entries[call].record.emitted))

    def kv_arrived(self, call: Call) -> None:
        self.hear(call, "decode-0", kv_ready=pb.KvReady(transfer_us=5))

    def frees(self) -> list[str]:
        return sorted(worker_id for worker_id, kind in self.sent if kind == "free")


def letters(text: str, reason: FinishReason | None = None, first: int = 0) -> pb.TokenDelta:
    ids = [ord(letter) for letter in text]
    return pb.TokenDelta(token_ids=ids, finish_reason=finish_reason_to_proto(reason), first=first)


@pytest.fixture
def desk() -> Callable[..., Desk]:
    return Desk


class FakeWorker(stage_pb2_grpc.StageServiceServicer):
    """A StageService that answers by itself: "abc…" to every prompt, up to its `max_tokens`.

    Attributes:
        commands: Everything heard, oldest first.
        patient: Answer with the first token only, until Free.
        welcome: How it introduces itself.
        mute: Take streams and say nothing on them.
        renumbered: What the n-th message of a stream has for a number instead of n.
    """

    def __init__(self, worker_id: str, *, patient: bool = False, blocks: int = 0, mute: bool = False) -> None:
        self.worker_id = worker_id
        self.patient = patient
        self.welcome = welcome(worker_id, blocks=blocks)
        self.mute = mute
        self.renumbered: dict[int, int] = {}
        self.commands: list[pb.ConnectRequest] = []
        self.routers: list[str] = []
        self.address = "127.0.0.1:0"
        self.heard = asyncio.Condition()
        self._outboxes: list[asyncio.Queue[pb.ConnectResponse | None]] = []
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listens, at the same address as before if there was one."""
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)))
        stage_pb2_grpc.add_StageServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port(self.address)}"
        await self._server.start()

    async def stop(self) -> None:
        if self._server:
            await self._server.stop(0)
            self._server = None

    def say(self, event: pb.ConnectResponse) -> None:
        """To the router that connected last."""
        self._outboxes[-1].put_nowait(event)

    def hang_up(self) -> None:
        """Ends the latest stream, as a worker does whose event loop ends."""
        self._outboxes[-1].put_nowait(None)

    async def wait_for(self, kind: str, count: int = 1) -> list[pb.ConnectRequest]:
        """The commands of one kind, once there are `count` of them."""

        def found() -> list[pb.ConnectRequest]:
            return [command for command in self.commands if command.HasField(kind)]

        async with self.heard:
            await asyncio.wait_for(self.heard.wait_for(lambda: len(found()) >= count), 60)
        return found()

    async def wait_for_streams(self, count: int) -> None:
        """Returns when routers have connected that many times."""
        async with self.heard:
            await asyncio.wait_for(self.heard.wait_for(lambda: len(self.routers) >= count), 60)

    async def Connect(self, requests: AsyncIterator[pb.ConnectRequest], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        hello = await anext(aiter(requests))
        async with self.heard:
            self.routers.append(hello.hello.router_id)
            self.heard.notify_all()
        ordering = Ordering()
        assert ordering.accept(hello.number) == Fresh()
        outbox: asyncio.Queue[pb.ConnectResponse | None] = asyncio.Queue()
        self._outboxes.append(outbox)
        if not self.mute:
            outbox.put_nowait(pb.ConnectResponse(welcome=self.welcome))
        reader = asyncio.create_task(self._read(requests, outbox, ordering))
        numbering = Numbering()
        try:
            while event := await outbox.get():
                number = numbering.next()
                event.number = self.renumbered.get(number, number)
                yield event
        finally:
            reader.cancel()

    async def _read(
        self, requests: AsyncIterator[pb.ConnectRequest], outbox: "asyncio.Queue[Any]", ordering: Ordering
    ) -> None:
        async for command in requests:
            assert ordering.accept(command.number) == Fresh()
            async with self.heard:
                self.commands.append(command)
                self.heard.notify_all()
            for event in self._answers(command):
                outbox.put_nowait(event)

    def _answers(self, command: pb.ConnectRequest) -> Iterable[pb.ConnectResponse]:
        if command.HasField("free"):
            yield pb.ConnectResponse(freed=pb.Freed(key=command.free.key))
        if command.HasField("prefill"):
            known = len(command.prefill.emitted_token_ids)
            if self.welcome.total_blocks * 16 == len(command.prefill.token_ids) + known:
                full = _tokens("", FinishReason.LENGTH)
                full.first = known
                full.key.CopyFrom(command.prefill.key)
                yield pb.ConnectResponse(step_tokens=pb.StepTokens(deltas=[full]))
                return
            text = "".join(chr(97 + i % 26) for i in range(command.prefill.sampling.max_tokens))[known:]
            ends = FinishReason.LENGTH
            first = _tokens(text[:1], None if len(text) > 1 else ends)
            first.first = known
            yield pb.ConnectResponse(prefill_done=pb.PrefillDone(key=command.prefill.key, token=first))
            if len(text) > 1 and not self.patient:
                delta = _tokens(text[1:], ends)
                delta.first = known + 1
                delta.key.CopyFrom(command.prefill.key)
                yield pb.ConnectResponse(step_tokens=pb.StepTokens(deltas=[delta]))


@pytest_asyncio.fixture
async def fake_worker() -> AsyncIterator[Callable[..., Any]]:
    """Starts fake workers: `await fake_worker("decode-0")`."""
    async with AsyncExitStack() as stack:

        async def begin(worker_id: str, **options: Any) -> FakeWorker:
            worker = FakeWorker(worker_id, **options)
            await worker.start()
            stack.push_async_callback(worker.stop)
            return worker

        yield begin


def _tokens(text: str, reason: FinishReason | None) -> pb.TokenDelta:
    ids = [VOCABULARY.index(letter) for letter in text]
    return pb.TokenDelta(token_ids=ids, finish_reason=finish_reason_to_proto(reason))


def make_intake(context_length: int = 64) -> Intake:
    """A text model whose tokens are bytes."""
    return byte_intake(MODEL, context_length)


@pytest.fixture(name="make_intake")
def _make_intake() -> Callable[[int], Intake]:
    return make_intake


@dataclass
class Door:
    """A listening router and its workers."""

    router: Router
    client: AsyncClient
    workers: dict[str, FakeWorker]

    async def place(self) -> None:
        """Tells the router of every worker."""
        await self.router.place(
            WorkerAddress(w.worker_id, Stage(w.worker_id.partition("-")[0]), w.address) for w in self.workers.values()
        )
        await asyncio.wait_for(self.router.wait_ready(), 60)


@pytest_asyncio.fixture
async def open_door(fake_worker: Callable[..., Any]) -> AsyncIterator[Callable[..., Any]]:
    """Starts a router: `await open_door("decode-0", max_running=2, patient=True)`."""
    async with AsyncExitStack() as stack:

        async def start(*worker_ids: str, max_running: int = 8, patient: bool = False, per_worker: int = 8) -> Door:
            workers = {worker_id: await fake_worker(worker_id, patient=patient) for worker_id in worker_ids}
            limits = RouterLimits(RoutingPolicy(0, per_worker), max_running=max_running, max_retries=0)
            router = Router("127.0.0.1:0", make_intake(), limits)
            await router.start()
            stack.push_async_callback(router.stop, 0)
            client = await stack.enter_async_context(AsyncClient(router.address, timeout=60))
            door = Door(router, client, workers)
            if workers:
                await door.place()
            return door

        yield start


@pytest.fixture
def parts() -> tuple[Intake, RouterLimits]:
    """What a router needs besides its address."""
    return make_intake(), RouterLimits(max_running=8)
