"""A decoder's receiver, a prefill worker's sender and what may stand between them."""

import json
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triptych.core.errors import TriptychError
from triptych.transfer import (
    Endpoint,
    KvReceiver,
    KvSender,
    PoolGeometry,
    SharedSegment,
    Timeouts,
    TransferBackend,
    TransferServer,
    host_id,
)
from triptych.transfer.connection import Connection
from triptych.transfer.frames import Frame
from triptych.transfer.segment import Bytes

QUICK = Timeouts(connect=5.0, stall=10.0, fence=0.05)
GEOMETRY = PoolGeometry(layers=3, blocks=24, page_bytes=520)


@dataclass
class Decoder:
    """A receiver behind a server, with everything that its callbacks reported."""

    pool: SharedSegment
    receiver: KvReceiver
    server: TransferServer
    completed: "queue.Queue[tuple[str, int, float]]"
    failed: "queue.Queue[tuple[str, TriptychError]]"

    @property
    def endpoint(self) -> Endpoint:
        return self.server.endpoint

    def pages(self, block_ids: list[int], geometry: PoolGeometry = GEOMETRY) -> Bytes:
        return pages_of(self.pool.array, block_ids, geometry)


def pages_of(pool: Bytes, block_ids: list[int], geometry: PoolGeometry = GEOMETRY) -> Bytes:
    return pool.reshape(geometry.layers, geometry.blocks, geometry.page_bytes)[:, block_ids]


@dataclass
class Bench:
    """Makes workers and takes them down again."""

    rng: np.random.Generator
    undo: list[Callable[[], None]] = field(default_factory=list)

    def pool(self, geometry: PoolGeometry = GEOMETRY) -> SharedSegment:
        pool = SharedSegment.create(geometry.size)
        pool.array[:] = self.rng.integers(0, 256, geometry.size, dtype=np.uint8)
        self.undo.append(pool.close)
        return pool

    def decoder(
        self,
        backend: TransferBackend = TransferBackend.AUTO,
        geometry: PoolGeometry = GEOMETRY,
        clock: Callable[[], float] = time.monotonic,
        timeouts: Timeouts = QUICK,
        max_connections: int = 8,
    ) -> Decoder:
        completed: queue.Queue[tuple[str, int, float]] = queue.Queue()
        failed: queue.Queue[tuple[str, TriptychError]] = queue.Queue()
        pool = self.pool(geometry)
        receiver = KvReceiver(
            pool,
            geometry,
            on_complete=lambda *told: completed.put(told),
            on_failed=lambda *told: failed.put(told),
            backend=backend,
            timeouts=timeouts,
            clock=clock,
        )
        server = TransferServer([receiver], timeouts=timeouts, max_connections=max_connections)
        self.undo += [receiver.shutdown, server.shutdown]
        return Decoder(pool, receiver, server, completed, failed)

    def sender(
        self,
        pool: SharedSegment | Bytes | bytearray,
        backend: TransferBackend = TransferBackend.AUTO,
        geometry: PoolGeometry = GEOMETRY,
        idle_s: float = 60.0,
        timeouts: Timeouts = QUICK,
    ) -> KvSender:
        sender = KvSender(pool, geometry, backend=backend, timeouts=timeouts, idle_s=idle_s)
        self.undo.append(sender.shutdown)
        return sender

    def proxy(self, target: Endpoint, hook: Callable[[Frame, bytearray], None]) -> Endpoint:
        proxy = _Proxy(target, hook)
        self.undo.append(proxy.close)
        return proxy.endpoint


class _Proxy:
    """Passes frames on; shows each one that goes to the target to a hook, which may change its payload."""

    def __init__(self, target: Endpoint, hook: Callable[[Frame, bytearray], None]) -> None:
        self._target = target
        self._hook = hook
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[Connection] = []
        self.endpoint = Endpoint(f"127.0.0.1:{self._listener.getsockname()[1]}", host_id())
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.cut()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            client, server = Connection(peer, QUICK), Connection.open(self._target.address, QUICK)
            self._open += [client, server]
            threading.Thread(target=self._pump, args=(client, server, self._hook), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, lambda *_: None), daemon=True).start()

    @staticmethod
    def _pump(source: Connection, target: Connection, hook: Callable[[Frame, bytearray], None]) -> None:
        try:
            while source.wait():
                message = source.receive()
                payload = bytearray(message.payload_bytes)
                source.receive_into([memoryview(payload)])
                hook(message.frame, payload)
                target.send(message.frame, [memoryview(payload)])
        except TriptychError:
            pass
        finally:
            source.cut()
            target.cut()


@pytest.fixture
def bench(rng: np.random.Generator) -> Iterator[Bench]:
    bench = Bench(rng)
    yield bench
    for undo in reversed(bench.undo):
        undo()


@pytest.fixture(params=[TransferBackend.SHARED_MEMORY, TransferBackend.TCP])
def backend(request: pytest.FixtureRequest) -> TransferBackend:
    backend: TransferBackend = request.param
    return backend


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Polls for something that another thread or process is about to do."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "it did not happen within a minute"
            time.sleep(0.002)

    return wait


class Peer:
    """A process that runs one role of peer.py."""

    def __init__(self, role: str, **arguments: object) -> None:
        script = Path(__file__).with_name("peer.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), role, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the process ended with {self._process.wait()}"
        return json.loads(line)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def finish(self) -> int:
        self._process.communicate()
        return self._process.returncode


@pytest.fixture
def start_peer() -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def start(role: str, **arguments: object) -> Peer:
        peers.append(Peer(role, **arguments))
        return peers[-1]

    yield start
    for peer in peers:
        peer.kill()
