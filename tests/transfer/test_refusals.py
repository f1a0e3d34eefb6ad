import contextlib
import secrets
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from triptych.core.errors import FailedPrecondition, InvalidArgument, Unavailable
from triptych.transfer import (
    Endpoint,
    Heads,
    KvSender,
    PoolGeometry,
    Timeouts,
    TransferBackend,
    TransferServer,
    host_id,
)
from triptych.transfer.codec import encode
from triptych.transfer.connection import Connection
from triptych.transfer.frames import Chunk, Fetch, Hello, Refusal, Welcome
from triptych.transfer.runs import Run

GEOMETRY = PoolGeometry(layers=3, blocks=24, page_bytes=520)


def _socket(endpoint: Endpoint) -> socket.socket:
    host, port = endpoint.address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=60)


def test_an_unknown_ticket_is_refused_and_the_connection_goes_on(bench: Any, backend: TransferBackend) -> None:
    decoder, sender = bench.decoder(backend), bench.sender(bench.pool())
    before = decoder.pool.array.copy()
    with pytest.raises(Unavailable, match="ticket nobody is unknown or closed"):
        sender.send(decoder.endpoint, "nobody", 0, [1, 2], True).result(60)
    assert (decoder.pool.array == before).all()
    decoder.receiver.open("t", "request", 0, [3], 1)
    sender.send(decoder.endpoint, "t", 0, [1], True).result(60)
    assert sender.counts.reconnects == 0


def test_a_closed_ticket_is_refused(bench: Any, backend: TransferBackend) -> None:
    decoder, sender = bench.decoder(backend), bench.sender(bench.pool())
    decoder.receiver.open("t", "request", 0, [3, 4], 2)
    sender.send(decoder.endpoint, "t", 0, [1], False).result(60)
    decoder.receiver.close("t")
    decoder.receiver.close("t")
    before = decoder.pool.array.copy()
    with pytest.raises(Unavailable, match="unknown or closed"):
        sender.send(decoder.endpoint, "t", 1, [2], True).result(60)
    assert (decoder.pool.array == before).all()


def test_out_of_order_is_refused(bench: Any, backend: TransferBackend) -> None:
    decoder, sender = bench.decoder(backend), bench.sender(bench.pool())
    decoder.receiver.open("t", "request", 0, [3, 4, 5], 3)
    before = decoder.pool.array.copy()
    with pytest.raises(Unavailable, match="expects block 0 next, got block 1"):
        sender.send(decoder.endpoint, "t", 1, [1, 2], True).result(60)
    with pytest.raises(Unavailable, match="expects 3 blocks; got blocks 0 to 3 as the last"):
        sender.send(decoder.endpoint, "t", 0, [1, 2, 3, 4], True).result(60)
    with pytest.raises(Unavailable, match="got blocks 0 to 1 as the last"):
        sender.send(decoder.endpoint, "t", 0, [1, 2], True).result(60)
    assert (decoder.pool.array == before).all()


def test_a_duplicate_is_acknowledged_and_not_written(bench: Any, backend: TransferBackend) -> None:
    decoder, pool = bench.decoder(backend), bench.pool()
    sender = bench.sender(pool)
    decoder.receiver.open("t", "request", 0, [3, 4], 2)
    sender.send(decoder.endpoint, "t", 0, [1], False).result(60)
    before = decoder.pool.array.copy()
    sender.send(decoder.endpoint, "t", 0, [2], False).result(60)
    assert (decoder.pool.array == before).all()
    assert decoder.receiver.counts.chunks == 1


def test_a_failed_chunk_fails_the_ticket_behind_it_and_no_other(bench: Any) -> None:
    decoder, sender = bench.decoder(), bench.sender(bench.pool())
    decoder.receiver.open("u", "request", 0, [3], 1)
    futures = [sender.send(decoder.endpoint, "nobody", first, [1], False) for first in range(3)]
    other = sender.send(decoder.endpoint, "u", 0, [1], True)
    assert [type(future.exception(60)) for future in futures] == [Unavailable] * 3
    assert other.result(60).blocks == 1


@pytest.mark.parametrize("blocks", [[24], [-1], [1, 1]])
def test_only_blocks_of_the_pool_can_be_reserved(bench: Any, blocks: list[int]) -> None:
    with pytest.raises(InvalidArgument, match="block"):
        bench.decoder().receiver.open("t", "request", 0, blocks, 1)


def test_strangers_are_shown_the_door(bench: Any, eventually: Callable[..., None]) -> None:
    decoder, sender = bench.decoder(), bench.sender(bench.pool())
    decoder.receiver.open("t", "request", 0, [0, 1], 2)
    before = decoder.pool.array.copy()
    sender.send(decoder.endpoint, "t", 0, [1], False).result(60)
    hello = encode(Hello(TransferBackend.TCP, host_id(), GEOMETRY, None))
    for garbage in (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        secrets.token_bytes(5000),
        b"",
        b"TPTX",
        hello[:-3],
        hello[:20] + b"[" * (len(hello) - 20),
        hello + secrets.token_bytes(100),
        encode(Fetch("i", "h", TransferBackend.TCP, "x")),
        encode(Welcome(TransferBackend.TCP)),
        hello + hello,
        hello + encode(Chunk("t", 1, (Run(0, 1),), True, 0, Heads(0, 1)), 7),
        hello + encode(Chunk("t", 1, (Run(0, 1 << 60),), True, 0, Heads(0, 1)), 7),
        hello + encode(Chunk("t", 1, (Run(0, 0),), True, 0, Heads(0, 1))),
        hello + encode(Chunk("t", 1, (Run(0, 1),), True, 0, Heads(1, 1)), 1560),
    ):
        # The door may close before all of it is said.
        with _socket(decoder.endpoint) as stranger, contextlib.suppress(OSError):
            stranger.sendall(garbage)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(4096):
                pass
    eventually(lambda: decoder.server.connections == 1)
    sender.send(decoder.endpoint, "t", 1, [2], True).result(60)
    assert decoder.completed.get_nowait()[0] == "t"
    untouched = [block for block in range(24) if block not in (0, 1)]
    assert (decoder.pages(untouched) == before.reshape(3, 24, 520)[:, untouched]).all()


def test_a_refusal_says_why(bench: Any) -> None:
    connection = Connection.open(bench.decoder().endpoint.address, Timeouts())
    connection.send(Fetch("i", "h", TransferBackend.TCP, "x"))
    assert connection.receive().frame == Refusal(Unavailable.code, "this worker does not serve Fetch")
    connection.close()


def test_silent_connections_are_bounded(bench: Any) -> None:
    decoder = bench.decoder(max_connections=2)
    silent = [_socket(decoder.endpoint) for _ in range(2)]
    with pytest.raises(Unavailable, match="all 2 transfer connections are taken"):
        bench.sender(bench.pool()).send(decoder.endpoint, "t", 0, [1], True).result(60)
    for stranger in silent:
        stranger.close()


def test_a_silent_connection_ends_after_the_stall_limit(bench: Any) -> None:
    decoder = bench.decoder(timeouts=Timeouts(stall=0.05))
    with _socket(decoder.endpoint) as stranger:
        while stranger.recv(4096):
            pass  # a refusal, then the end


def test_a_server_that_never_answers_is_unavailable(bench: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        endpoint = Endpoint(f"127.0.0.1:{mute.getsockname()[1]}", host_id())
        sender = KvSender(bytearray(GEOMETRY.size), GEOMETRY, timeouts=Timeouts(stall=0.05))
        with pytest.raises(Unavailable, match=r"moved no byte for 0\.05 s"):
            sender.send(endpoint, "t", 0, [1], True).result(60)
        sender.shutdown()


@pytest.mark.parametrize("address", ["", "nowhere", "127.0.0.1:x", "127.0.0.1:99999999", "a" * 300 + ":80"])
def test_a_bad_address_is_unavailable(bench: Any, address: str) -> None:
    with pytest.raises(Unavailable, match="cannot reach the transfer server"):
        bench.sender(bench.pool()).send(Endpoint(address, host_id()), "t", 0, [1], True).result(60)


def test_a_taken_port_is_named() -> None:
    server = TransferServer([])
    port = int(server.endpoint.address.rsplit(":", 1)[1])
    with pytest.raises(FailedPrecondition, match=f"cannot listen on 127.0.0.1:{port}"):
        TransferServer([], port=port)
    server.shutdown()


def test_a_server_on_every_interface_must_say_where_it_is() -> None:
    with pytest.raises(InvalidArgument, match="advertised host"):
        TransferServer([], host="0.0.0.0")
    server = TransferServer([], advertised_host="decoder.example")
    assert server.endpoint.address.startswith("decoder.example:")
    server.shutdown()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_ipv6_addresses_work(bench: Any) -> None:
    decoder = bench.decoder()
    server = TransferServer([decoder.receiver], host="::1")
    decoder.receiver.open("t", "request", 0, [1], 1)
    assert server.endpoint.address.startswith("[::1]:")
    bench.sender(bench.pool()).send(server.endpoint, "t", 0, [1], True).result(60)
    server.shutdown()


def test_shutdown_leaves_no_thread(bench: Any) -> None:
    before = set(threading.enumerate())
    decoder, sender = bench.decoder(), bench.sender(bench.pool())
    decoder.receiver.open("t", "request", 0, [0, 1], 2)
    sender.send(decoder.endpoint, "t", 0, [1], False).result(60)
    started = set(threading.enumerate()) - before
    assert {thread.name.rsplit("-", 1)[0] for thread in started} == {"transfer-send", "transfer", "transfer-accept"}
    assert all(thread.daemon for thread in started)
    for _ in range(2):
        decoder.server.shutdown()
        decoder.receiver.shutdown()
        sender.shutdown()
    assert set(threading.enumerate()) == before
