import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from triptych.core.errors import Cancelled, FailedPrecondition, Unavailable
from triptych.core.leases.reservation import Closing, Complete, Open, Receiving
from triptych.transfer import PoolGeometry, Timeouts, TransferBackend, host_id
from triptych.transfer.codec import encode
from triptych.transfer.connection import Connection
from triptych.transfer.frames import Ack, Chunk, Frame, Hello
from triptych.transfer.heads import Heads
from triptych.transfer.pages import Pages
from triptych.transfer.runs import runs_of

GEOMETRY = PoolGeometry(layers=3, blocks=24, page_bytes=520)
PATIENT = Timeouts(connect=5.0, stall=600.0, fence=600.0)


class _Zombie:
    """A sender that stops in the middle of a chunk."""

    def __init__(self, address: str, pool: Any, ticket_id: str, block_ids: list[int]) -> None:
        pages, runs = Pages(pool, GEOMETRY), runs_of(block_ids)
        self._payload = b"".join(pages.pieces(runs, GEOMETRY.heads))
        host, port = address.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)))
        self._socket.sendall(encode(Hello(TransferBackend.TCP, host_id(), GEOMETRY, None)))
        self._socket.recv(4096)
        chunk = Chunk(ticket_id, 0, runs, True, pages.checksum(runs, pages.geometry.heads), pages.geometry.heads)
        half = len(self._payload) // 2
        self._socket.sendall(encode(chunk, len(self._payload)) + self._payload[:half])
        self._rest = self._payload[half:]

    def go_on(self) -> None:
        with contextlib.suppress(OSError):  # the connection may have been cut by now
            self._socket.sendall(self._rest)
        self._socket.close()


@pytest.fixture
def slow_copies(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Copies between pools say that they have begun, and wait to be told to go on."""
    begun, go_on = threading.Event(), threading.Event()
    copy = Pages.copy_from

    def held(self: Pages, source: Pages, pair: Any, heads: Heads) -> None:
        begun.set()
        assert go_on.wait(60)
        copy(self, source, pair, heads)

    monkeypatch.setattr(Pages, "copy_from", held)
    return begun, go_on


def test_nothing_is_written_after_close_when_a_sender_stalls(bench: Any, eventually: Callable[..., None]) -> None:
    decoder, pool = bench.decoder(), bench.pool()
    decoder.receiver.open("t", "request", 0, [4, 5, 6, 7], 4)
    zombie = _Zombie(decoder.endpoint.address, pool, "t", [0, 1, 2, 3])
    eventually(lambda: isinstance(decoder.receiver.state("t"), Receiving))
    decoder.receiver.close("t")
    assert decoder.receiver.state("t") is None
    after_close = decoder.pool.array.copy()
    # The blocks have a new owner, and the zombie comes back.
    decoder.receiver.open("u", "another", 0, [4, 5, 6, 7], 4)
    zombie.go_on()
    eventually(lambda: decoder.server.connections == 0)
    assert (decoder.pool.array == after_close).all()
    assert decoder.completed.empty()
    assert isinstance(decoder.receiver.state("u"), Open)


def test_close_waits_for_the_copy_in_flight(
    bench: Any, slow_copies: tuple[threading.Event, threading.Event], eventually: Callable[..., None]
) -> None:
    begun, go_on = slow_copies
    decoder, pool = bench.decoder(TransferBackend.SHARED_MEMORY), bench.pool()
    decoder.receiver.open("t", "request", 0, [4, 5], 2)
    future = bench.sender(pool).send(decoder.endpoint, "t", 0, [1, 2], True)
    assert begun.wait(60)
    closing = threading.Thread(target=decoder.receiver.close, args=("t",))
    closing.start()
    eventually(lambda: isinstance(decoder.receiver.state("t"), Closing))
    with pytest.raises(FailedPrecondition, match="is reserved by another ticket"):
        decoder.receiver.open("u", "another", 0, [5], 1)
    assert closing.is_alive()
    go_on.set()
    closing.join(10)
    assert not closing.is_alive()
    decoder.receiver.open("u", "another", 0, [5], 1)
    after_close = decoder.pool.array.copy()
    with pytest.raises(Unavailable, match=r"closed|lost"):
        future.result(60)
    assert (decoder.pool.array == after_close).all()
    assert decoder.completed.empty()


def test_a_lease_that_ends_fences_its_writer(bench: Any, eventually: Callable[..., None]) -> None:
    now = [0.0]
    decoder = bench.decoder(clock=lambda: now[0])
    decoder.receiver.open("t", "request", 0, [4, 5, 6, 7], 4, router_id="r")
    zombie = _Zombie(decoder.endpoint.address, bench.pool(), "t", [0, 1, 2, 3])
    eventually(lambda: isinstance(decoder.receiver.state("t"), Receiving))
    now[0] = 29.0
    assert decoder.receiver.renew("r") == 1
    now[0] = 58.0
    assert decoder.receiver.expire() == ()
    now[0] = 60.0
    assert decoder.receiver.expire() == ("t",)
    after = decoder.pool.array.copy()
    ticket_id, error = decoder.failed.get_nowait()
    assert (ticket_id, type(error)) == ("t", Unavailable)
    zombie.go_on()
    eventually(lambda: decoder.server.connections == 0)
    assert (decoder.pool.array == after).all()
    assert decoder.failed.empty()
    with pytest.raises(Unavailable):
        bench.sender(bench.pool()).send(decoder.endpoint, "t", 0, [0, 1, 2, 3], True).result(60)


def test_a_sender_that_comes_back_replaces_its_dead_connection(bench: Any, eventually: Callable[..., None]) -> None:
    decoder, pool = bench.decoder(), bench.pool()
    decoder.receiver.open("t", "request", 0, [4, 5, 6, 7], 4)
    zombie = _Zombie(decoder.endpoint.address, pool, "t", [0, 1, 2, 3])
    eventually(lambda: isinstance(decoder.receiver.state("t"), Receiving))
    bench.sender(pool).send(decoder.endpoint, "t", 0, [8, 9, 10, 11], True).result(60)
    assert isinstance(decoder.receiver.state("t"), Complete)
    zombie.go_on()
    eventually(lambda: decoder.server.connections == 1)
    assert (decoder.pages([4, 5, 6, 7]) == pool.array.reshape(3, 24, 520)[:, 8:12]).all()


def test_cancel_drops_what_waits_and_what_flies(
    bench: Any, slow_copies: tuple[threading.Event, threading.Event]
) -> None:
    begun, go_on = slow_copies
    decoder, pool = bench.decoder(TransferBackend.SHARED_MEMORY), bench.pool()
    sender = bench.sender(pool)
    decoder.receiver.open("t", "request", 0, [0, 1, 2], 3)
    decoder.receiver.open("u", "another", 0, [4], 1)
    flying = sender.send(decoder.endpoint, "t", 0, [0], False)
    waiting = sender.send(decoder.endpoint, "t", 1, [1, 2], True)
    other = sender.send(decoder.endpoint, "u", 0, [9], True)
    assert begun.wait(60)
    sender.cancel("t")  # returns although the receiver hangs: the connection is cut
    for future in (flying, waiting):
        with pytest.raises(Cancelled):
            future.result(60)
    # The source blocks have a new owner now; what the receiver still copies is not accepted.
    pool.array.reshape(3, 24, 520)[:, [0, 1, 2]] ^= 0xFF
    go_on.set()
    assert other.result(60).blocks == 1
    decoder.receiver.close("t")
    assert [decoder.completed.get_nowait()[0]] == ["u"]
    assert sender.counts.reconnects == 0
    sender.cancel("t")


def test_only_the_ticket_that_flies_waits_for_a_receiver_that_stalls(
    bench: Any, slow_copies: tuple[threading.Event, threading.Event]
) -> None:
    begun, go_on = slow_copies
    decoder = bench.decoder(TransferBackend.SHARED_MEMORY, timeouts=PATIENT)
    sender = bench.sender(bench.pool(), timeouts=PATIENT)
    tickets = [f"t{i}" for i in range(8)]
    for place, ticket in enumerate(tickets):
        decoder.receiver.open(ticket, ticket, 0, [place], 1)
    futures = [sender.send(decoder.endpoint, ticket, 0, [place], True) for place, ticket in enumerate(tickets)]
    assert begun.wait(60)
    cancelling = [threading.Thread(target=sender.cancel, args=(ticket,), daemon=True) for ticket in tickets]
    for thread in cancelling:
        thread.start()
    for thread in cancelling[1:]:
        thread.join(10)
    assert [thread.is_alive() for thread in cancelling] == [True] + [False] * 7
    assert [type(future.exception(0)) for future in futures[1:]] == [Cancelled] * 7
    go_on.set()
    cancelling[0].join(10)
    assert not cancelling[0].is_alive()


def test_cancelling_from_a_callback_does_not_wait_for_itself(bench: Any) -> None:
    decoder, sender = bench.decoder(), bench.sender(bench.pool())
    told = threading.Event()

    def give_up(_: object) -> None:
        sender.cancel("t")
        told.set()

    sender.send(decoder.endpoint, "t", 0, [0], False).add_done_callback(give_up)
    assert told.wait(60)


def test_shutdown_resolves_every_future(bench: Any, slow_copies: tuple[threading.Event, threading.Event]) -> None:
    begun, go_on = slow_copies
    decoder, sender = bench.decoder(TransferBackend.SHARED_MEMORY), bench.sender(bench.pool())
    decoder.receiver.open("t", "request", 0, [0, 1, 2], 3)
    futures = [sender.send(decoder.endpoint, "t", first, [first], first == 2) for first in range(3)]
    assert begun.wait(60)
    sender.shutdown()
    for future in futures:
        with pytest.raises(Cancelled):
            future.result(0)
    go_on.set()
    with pytest.raises(Unavailable, match="shut down"):
        sender.send(decoder.endpoint, "t", 0, [0], False).result(0)


def test_a_lost_connection_is_opened_once_more(bench: Any) -> None:
    decoder, pool = bench.decoder(), bench.pool()
    seen: list[Frame] = []

    def lose_the_second_chunk(frame: Frame, payload: bytearray) -> None:
        seen.append(frame)
        if isinstance(frame, Chunk) and sum(isinstance(f, Chunk) for f in seen) == 2:
            raise Unavailable("the wire was cut")

    sender = bench.sender(pool)
    endpoint = bench.proxy(decoder.endpoint, lose_the_second_chunk)
    decoder.receiver.open("t", "request", 0, [0, 1, 2], 3)
    futures = [sender.send(endpoint, "t", first, [first], first == 2) for first in range(3)]
    assert [future.result(60).blocks for future in futures] == [1, 1, 1]
    assert sender.counts.reconnects == 1
    assert decoder.completed.get_nowait()[0] == "t"
    assert [type(frame) for frame in seen] == [Hello, Chunk, Chunk, Hello, Chunk, Chunk]


def test_a_connection_lost_twice_is_unavailable_for_all_that_wait(bench: Any) -> None:
    decoder = bench.decoder()

    def lose_every_chunk(frame: Frame, payload: bytearray) -> None:
        if isinstance(frame, Chunk):
            raise Unavailable("the wire was cut")

    sender, endpoint = bench.sender(bench.pool()), bench.proxy(decoder.endpoint, lose_every_chunk)
    futures = [sender.send(endpoint, ticket, 0, [0], True) for ticket in ("t", "u")]
    errors = [future.exception(60) for future in futures]
    assert [type(error) for error in errors] == [Unavailable, Unavailable]
    assert errors[0] is not errors[1]


def test_a_receiver_that_is_gone_is_unavailable(bench: Any) -> None:
    decoder, sender = bench.decoder(), bench.sender(bench.pool())
    decoder.receiver.open("t", "request", 0, [0, 1], 2)
    sender.send(decoder.endpoint, "t", 0, [0], False).result(60)
    decoder.server.shutdown()
    with pytest.raises(Unavailable, match="cannot reach the transfer server"):
        sender.send(decoder.endpoint, "t", 1, [1], True).result(60)


@pytest.mark.parametrize("closed", [False, True])
def test_a_lost_acknowledgement_does_not_write_twice(bench: Any, closed: bool) -> None:
    """The chunk arrived but the sender does not know; it comes again and is acknowledged again."""
    decoder, pool = bench.decoder(TransferBackend.TCP), bench.pool()
    decoder.receiver.open("t", "request", 0, [3, 4], 2)
    pages, runs = Pages(pool, GEOMETRY), runs_of([0, 1])
    chunk = Chunk("t", 0, runs, True, pages.checksum(runs, pages.geometry.heads), pages.geometry.heads)
    for _ in range(3):
        connection = Connection.open(decoder.endpoint.address, Timeouts(stall=10.0))
        connection.send(Hello(TransferBackend.TCP, host_id(), GEOMETRY, None))
        connection.receive()
        connection.send(chunk, pages.pieces(runs, GEOMETRY.heads))
        assert connection.receive().frame == Ack("t", 0)
        connection.close()
        if closed:  # by its owner, who has all blocks
            decoder.receiver.close("t")
        pool.array[:] = 0  # a duplicate's payload is not even looked at
    assert decoder.pages([3, 4]).any()
    assert decoder.receiver.counts.chunks == 1
    assert decoder.completed.get_nowait()[0] == "t"
    assert decoder.completed.empty()
