#!/usr/bin/env python
"""What a router costs: messages, allocations and processor time per token and per request, no model behind it.

    python tests/bench/router_load.py

The router runs in this process, its workers, which answer at once, in a second, the clients in a third. An allocation
is a call of Python's own allocators for a new or a larger block, counted by allocations.c (a C compiler is needed);
what gRPC takes in C is not counted. Processor time is the router's, all threads. Figures per token leave out what the
request itself costs, which the rows of requests of one token show. They are taken at a pace that the router holds,
so that every step has a token of every stream; then the workers go as fast as they are read, for tokens/s.
"""

import asyncio
import ctypes
import multiprocessing
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from pathlib import Path

import grpc

from triptych.core.fleet.stage import Stage
from triptych.core.plan import RoutingPolicy
from triptych.inference.v1 import inference_pb2 as pb
from triptych.inference.v1 import inference_pb2_grpc, sampling_pb2
from triptych.router.fleet import WorkerAddress
from triptych.router.limits import RouterLimits
from triptych.router.server import Router
from triptych.router.testing import QuickWorker, byte_intake

LETTERS = range(66, 92)
ROLES = {"prefill-0": Stage.PREFILL, "decode-0": Stage.DECODE}
STREAMS = (1, 8, 32)
LONG = 200  # tokens of a long answer
PACE = 0.001  # seconds per token, all streams together


@dataclass(frozen=True, slots=True)
class Task:
    """What the clients are to do: so many streams at a time, each with so many requests of so many tokens."""

    streams: int
    requests: int
    tokens: int
    placement: pb.Placement.ValueType
    step_seconds: float = 0.0

    @property
    def total(self) -> int:
        """All requests."""
        return self.streams * self.requests


@dataclass(frozen=True, slots=True)
class Cost:
    """What the router spent on one unit of work; messages are those with workers and those to and from clients."""

    seconds: float
    processor: float
    allocations: float
    worker_messages: float
    client_messages: float

    def over(self, units: float) -> "Cost":
        """A share of it."""
        return Cost(*(value / units for value in astuple(self)))

    def beyond(self, base: "Cost") -> "Cost":
        """What it is more than `base`."""
        return Cost(*(value - less for value, less in zip(astuple(self), astuple(base), strict=True)))


class Bench:
    """A router between the two other processes."""

    def __init__(self, workers: Connection, clients: Connection, allocations: Callable[[], int]) -> None:
        self._workers, self._clients, self._allocations = workers, clients, allocations

    async def serve(self) -> Router:
        """Starts the router."""
        limits = RouterLimits(RoutingPolicy(colocate_below_tokens=0), max_running=256)
        router = Router("127.0.0.1:0", byte_intake("bytes", LONG + 100), limits)
        await router.start()
        addresses = self._workers.recv()
        await router.place([WorkerAddress(name, ROLES[name], address) for name, address in addresses.items()])
        await router.wait_ready()
        self._clients.send(router.address)
        return router

    async def cost(self, task: Task) -> Cost:
        """Of one request of the task."""
        self._workers.send(task.step_seconds)
        messages, started, cpu, allocated = (
            self._workers.recv(),
            time.monotonic(),
            time.process_time(),
            self._allocations(),
        )
        self._clients.send(task)
        answers = await asyncio.to_thread(self._clients.recv)
        seconds, spent = time.monotonic() - started, time.process_time() - cpu
        allocated = self._allocations() - allocated
        self._workers.send(0.0)
        heard = self._workers.recv() - messages
        return Cost(seconds, spent, allocated, heard, answers + task.total).over(task.total)


def main() -> None:
    """Measures and prints a table for colocated requests, and one for prefill and decode on two workers."""
    context = multiprocessing.get_context("spawn")
    with _child(context, serve_workers) as workers, _child(context, run_clients) as clients:
        asyncio.run(_measure(Bench(workers, clients, _count_allocations())))


async def _measure(bench: Bench) -> None:
    router = await bench.serve()
    for name, placement in (("colocated", pb.PLACEMENT_COLOCATED), ("prefill | decode", pb.PLACEMENT_DISAGGREGATED)):
        await bench.cost(Task(8, 50, 4, placement))  # what happens once happens here
        short = [await bench.cost(Task(streams, 1600 // streams, 1, placement)) for streams in STREAMS]
        _print_requests(name, short)
        paced = [await bench.cost(Task(n, max(1, 8 // n), LONG, placement, PACE * n)) for n in STREAMS]
        fast = [await bench.cost(Task(streams, 64 // streams, LONG, placement)) for streams in STREAMS]
        tokens = [cost.beyond(base).over(LONG - 1) for cost, base in zip(paced, short, strict=True)]
        _print_tokens(tokens, [LONG / cost.seconds for cost in fast])
    await router.stop(0)


def _print_requests(name: str, costs: Iterable[Cost]) -> None:
    print(f"\n{name}\nstreams  requests/s  us/request  allocations/request  messages/request: workers, clients")
    for streams, cost in zip(STREAMS, costs, strict=True):
        print(
            f"{streams:7} {1 / cost.seconds:11.0f} {1e6 * cost.processor:11.0f} {cost.allocations:20.0f}"
            f" {cost.worker_messages:26.2f}, {cost.client_messages:.2f}"
        )


def _print_tokens(costs: Iterable[Cost], speeds: Iterable[float]) -> None:
    print("streams    tokens/s    us/token    allocations/token    messages/token: workers, clients")
    for streams, cost, speed in zip(STREAMS, costs, speeds, strict=True):
        print(
            f"{streams:7} {speed:11.0f} {1e6 * cost.processor:11.0f} {cost.allocations:20.0f}"
            f" {cost.worker_messages:26.3f}, {cost.client_messages:.3f}"
        )


def serve_workers(pipe: Connection) -> None:
    """Says the addresses; then hears the seconds of a step and says how many messages there were, again and again."""

    async def serve() -> None:
        workers = [QuickWorker(name, role, "bytes", LETTERS) for name, role in ROLES.items()]
        for worker in workers:
            await worker.start()
        pipe.send({worker.worker_id: worker.address for worker in workers})
        while isinstance(step_seconds := await asyncio.to_thread(_received, pipe), float):
            for worker in workers:
                worker.script.step_seconds = step_seconds
            pipe.send(sum(worker.tally.commands + worker.tally.events for worker in workers))
        for worker in workers:
            await worker.stop()

    asyncio.run(serve())


def run_clients(pipe: Connection) -> None:
    """Hears the router's address, then tasks; answers each with the number of messages that came back."""

    async def run() -> None:
        async with grpc.aio.insecure_channel(str(_received(pipe))) as channel:
            stub: inference_pb2_grpc.InferenceServiceAsyncStub = inference_pb2_grpc.InferenceServiceStub(channel)
            while isinstance(task := await asyncio.to_thread(_received, pipe), Task):
                pipe.send(sum(await asyncio.gather(*(_client(stub, task) for _ in range(task.streams)))))

    asyncio.run(run())


async def _client(stub: "inference_pb2_grpc.InferenceServiceAsyncStub", task: Task) -> int:
    sampling = sampling_pb2.SamplingParams(max_tokens=task.tokens)
    prompt = pb.TokenIds(ids=[LETTERS[0]] * 16)
    request = pb.GenerationInput(token_ids=prompt, sampling=sampling, placement=task.placement)
    messages = 0
    for _ in range(task.requests):
        tokens = 0
        async for piece in stub.GenerateStream(pb.GenerateStreamRequest(input=request)):
            messages += 1
            tokens += len(piece.token_ids)
        if tokens != task.tokens:
            raise ValueError(f"{tokens} tokens came instead of {task.tokens}")
    return messages


def _received(pipe: Connection) -> object:
    """The next thing said; None when the other side has closed."""
    try:
        return pipe.recv()
    except EOFError:
        return None


@contextmanager
def _child(context: SpawnContext, work: Callable[[Connection], None]) -> Iterator[Connection]:
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs,))
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join()


def _count_allocations() -> Callable[[], int]:
    with tempfile.TemporaryDirectory() as folder:
        made, source = Path(folder) / "allocations.so", Path(__file__).with_name("allocations.c")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", made, source], check=True)
        library = ctypes.CDLL(str(made))
    library.install(ctypes.pythonapi.PyMem_GetAllocator, ctypes.pythonapi.PyMem_SetAllocator)
    library.allocations.restype = ctypes.c_ulonglong
    return lambda: int(library.allocations())


if __name__ == "__main__":
    main()
