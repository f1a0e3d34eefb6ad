"""A router under load keeps nothing of what is over: not a request, not a byte."""

import asyncio
import gc
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import psutil
import pytest
import pytest_asyncio

from tests.support.seeds import drawn_seed
from triptych.admin.v1 import admin_pb2, admin_pb2_grpc
from triptych.core.fleet.stage import Stage
from triptych.core.plan import RoutingPolicy
from triptych.inference.v1 import inference_pb2 as pb
from triptych.inference.v1 import inference_pb2_grpc, sampling_pb2
from triptych.router import link
from triptych.router.fleet import WorkerAddress
from triptych.router.limits import RouterLimits
from triptych.router.server import Router
from triptych.router.testing import QuickWorker, byte_intake

CLIENTS = 32
CONTEXT = 64
LETTERS = range(66, 92)  # token ids of 26 one-byte letters
ROLES = {"prefill-0": Stage.PREFILL, "decode-0": Stage.DECODE, "decode-1": Stage.DECODE}


@dataclass(frozen=True, slots=True)
class Memory:
    """What this process holds: its objects by type, blocks of Python's allocator, resident bytes."""

    objects: Counter[str]
    blocks: int
    resident: int

    @classmethod
    def now(cls) -> "Memory":
        gc.collect()
        blocks = sys.getallocatedblocks()
        objects = Counter(f"{type(o).__module__}.{type(o).__qualname__}" for o in gc.get_objects())
        return cls(objects, blocks, psutil.Process().memory_info().rss)


class Load:
    """A router, its workers and the clients, all in one process."""

    def __init__(self, router: Router, workers: list[QuickWorker], channel: grpc.aio.Channel) -> None:
        self.workers = workers
        self.answered = self.cancelled = self.refused = 0
        self._place = [WorkerAddress(w.worker_id, ROLES[w.worker_id], w.address) for w in workers]
        self.router = router
        self._inference: inference_pb2_grpc.InferenceServiceAsyncStub = inference_pb2_grpc.InferenceServiceStub(
            channel
        )
        self._admin: admin_pb2_grpc.AdminServiceAsyncStub = admin_pb2_grpc.AdminServiceStub(channel)

    async def place(self) -> None:
        await self.router.place(self._place)
        await asyncio.wait_for(self.router.wait_ready(), 60)

    async def run(self, requests: int, dice: random.Random) -> None:
        """Sends them, so many at a time as there are clients; now and then a worker loses all its streams."""
        numbers = iter(range(requests))

        async def client() -> None:
            for number in numbers:
                if number % 997 == 500:
                    dice.choice(self.workers).hang_up()
                await self._request(dice)

        await asyncio.gather(*(client() for _ in range(CLIENTS)))

    async def settled(self) -> admin_pb2.GetClusterStatusResponse:
        """The status, once the last Free is acknowledged."""
        async with asyncio.timeout(30):
            while True:
                status = await self._admin.GetClusterStatus(admin_pb2.GetClusterStatusRequest())
                if not (status.router.running_requests or status.router.awaiting_free):
                    return status
                await asyncio.sleep(0.02)

    async def _request(self, dice: random.Random) -> None:
        length, count = dice.randint(1, 12), dice.randint(1, 8)
        kind = dice.choices(("answer", "cancel", "refuse"), (0.9, 0.06, 0.04))[0]
        wanted = CONTEXT if kind == "refuse" else count
        call = self._inference.GenerateStream(
            pb.GenerateStreamRequest(
                input=pb.GenerationInput(
                    token_ids=pb.TokenIds(ids=[LETTERS[0]] * length),
                    sampling=sampling_pb2.SamplingParams(max_tokens=wanted),
                    placement=dice.choice((pb.PLACEMENT_UNSPECIFIED, pb.PLACEMENT_COLOCATED)),
                )
            )
        )
        tokens: list[int] = []
        try:
            async for piece in call:
                tokens += piece.token_ids
                if kind == "cancel":
                    call.cancel()
        except asyncio.CancelledError:
            self.cancelled += 1
            return
        except grpc.aio.AioRpcError as error:
            if (kind, error.code()) != ("refuse", grpc.StatusCode.INVALID_ARGUMENT):
                raise
            self.refused += 1
            return
        assert tokens == [self.workers[0].script.token(length, place) for place in range(count)]
        self.answered += 1


@pytest_asyncio.fixture
async def load(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Load]:
    monkeypatch.setattr(link, "RECONNECT_SECONDS", 0.005)
    workers = [QuickWorker(worker_id, role, "bytes", LETTERS) for worker_id, role in ROLES.items()]
    for worker in workers:
        await worker.start()
    limits = RouterLimits(RoutingPolicy(colocate_below_tokens=6), max_running=2 * CLIENTS, max_retries=20)
    router = Router("127.0.0.1:0", byte_intake("bytes", CONTEXT), limits)
    await router.start()
    async with grpc.aio.insecure_channel(router.address) as channel:
        load = Load(router, workers, channel)
        await load.place()
        yield load
    await router.stop(0)
    for worker in workers:
        await worker.stop()


async def check(load: Load, warm_up: int, requests: int) -> None:
    """Memory after `requests` further ones is what it was after the first `warm_up`, and every holder was freed."""
    seed = drawn_seed()
    dice = random.Random(seed)
    await load.run(warm_up, dice)
    await load.settled()
    before = Memory.now()
    await load.run(requests, dice)
    status = await load.settled()
    after = Memory.now()
    grown = {kind: more for kind, more in (after.objects - before.objects).items() if more > 20}
    resident = (after.resident - before.resident) / 2**20
    print(f"{status.router.replays} replays; {after.blocks - before.blocks:+} blocks, {resident:+.1f} MiB, {grown}")
    assert sum(grown.values()) < 500, grown
    assert after.blocks - before.blocks < 5000
    assert resident < 16
    assert load.answered + load.cancelled + load.refused == warm_up + requests
    assert status.router.failed_requests == status.router.waiting_requests == 0
    assert [worker.held for worker in load.workers] == [0, 0, 0]
    assert not any(load.router.requests().values())


async def test_two_thousand_requests_leave_nothing_behind(load: Load) -> None:
    await check(load, 500, 2000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_two_hundred_thousand_requests_leave_nothing_behind(load: Load) -> None:
    await check(load, 5000, 200_000)
