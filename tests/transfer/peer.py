"""Other processes of the tests: `python peer.py ROLE JSON`; talks in JSON lines on stdout, waits for stdin to end.

own     owns a segment full of its seed's bytes
attach  reads somebody's segment and tries to write it
send    sends the blocks of a pool, chunk by chunk
stall   sends a chunk's descriptor and half of its payload, then nothing
store   serves one embedding
"""

import json
import mmap
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from triptych.transfer import (
    EmbeddingStore,
    Endpoint,
    KvSender,
    PoolGeometry,
    SegmentRef,
    SharedSegment,
    TransferBackend,
    TransferServer,
    host_id,
)
from triptych.transfer.codec import encode
from triptych.transfer.frames import Chunk, Hello
from triptych.transfer.pages import Pages
from triptych.transfer.runs import runs_of
from triptych.transfer.segment import HEADER_BYTES


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)


def _filled(size: int, seed: int) -> SharedSegment:
    segment = SharedSegment.create(size)
    segment.array[:] = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    return segment


def own(size: int, seed: int) -> None:
    segment = _filled(size, seed)
    ref = segment.ref
    _say({name: getattr(ref, name) for name in ("host_id", "pid", "descriptor", "token", "size")})
    sys.stdin.read()


def attach(ref: dict[str, Any]) -> None:
    segment = SharedSegment.attach(SegmentRef(**ref))
    path = f"/proc/{ref['pid']}/fd/{ref['descriptor']}"
    try:
        with open(path, "r+b") as file:
            mmap.mmap(file.fileno(), HEADER_BYTES + ref["size"])
        mapped_for_writing = True
    except OSError:
        mapped_for_writing = False
    _say(
        {
            "sum": int(segment.array.sum(dtype=np.int64)),
            "writable": segment.array.flags.writeable,
            "mapped_for_writing": mapped_for_writing,
        }
    )


def send(geometry: list[int], seed: int, address: str, backend: str, ticket: str, chunks: list[list[int]]) -> None:
    shape = PoolGeometry(geometry[0], geometry[1], geometry[2])
    pool = _filled(shape.size, seed)
    sender = KvSender(pool, shape, backend=TransferBackend(backend))
    sent, futures = 0, []
    for chunk in chunks:
        last = chunk is chunks[-1]
        futures.append(sender.send(Endpoint(address, host_id()), ticket, sent, chunk, last))
        sent += len(chunk)
    _say([future.result(60).backend for future in futures])
    sender.shutdown()


def stall(geometry: list[int], seed: int, address: str, ticket: str, block_ids: list[int]) -> None:
    shape = PoolGeometry(geometry[0], geometry[1], geometry[2])
    pool = _filled(shape.size, seed)
    pages, runs = Pages(pool, shape), runs_of(block_ids)
    host, port = address.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)))
    connection.sendall(encode(Hello(TransferBackend.TCP, host_id(), shape, None)))
    connection.recv(4096)
    payload = b"".join(pages.pieces(runs, shape.heads))
    chunk = Chunk(ticket, 0, runs, True, pages.checksum(runs, shape.heads), shape.heads)
    connection.sendall(encode(chunk, len(payload)) + payload[: len(payload) // 2])
    _say(os.getpid())
    sys.stdin.read()


def store(size: int, seed: int, backend: str) -> None:
    segment = _filled(size, seed)
    embeddings = EmbeddingStore("other", backend=TransferBackend(backend))
    made = embeddings.put("hash", segment.array)
    server = TransferServer([embeddings])
    _say({"address": server.endpoint.address, "checksum": made.checksum, "size": made.size})
    sys.stdin.read()


if __name__ == "__main__":
    roles: dict[str, Callable[..., None]] = {
        "own": own,
        "attach": attach,
        "send": send,
        "stall": stall,
        "store": store,
    }
    roles[sys.argv[1]](**json.loads(sys.argv[2]))
