"""The transfer server of a worker: one listening socket, one thread per connection, any number of services."""

import contextlib
import logging
import socket
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from triptych.core.errors import FailedPrecondition, InvalidArgument, TriptychError, Unavailable
from triptych.transfer.backend import Timeouts
from triptych.transfer.connection import Connection
from triptych.transfer.frames import Frame, Refusal
from triptych.transfer.host import host_id

_log = logging.getLogger(__name__)
_EVERYWHERE = ("", "0.0.0.0", "::")
_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a worker's pool or embeddings can be reached.

    Attributes:
        address: "host:port" of the transfer server.
        host_id: `host_id()` of the worker.
    """

    address: str
    host_id: str


class Service(Protocol):
    """What a server offers to connections that begin with one kind of frame."""

    @property
    def opening(self) -> type[Frame]:
        """The first frame of a connection that wants this service."""

    def serve(self, connection: Connection, first: Frame) -> None:
        """Talks until the peer closes; a TriptychError that escapes is sent to the peer as a Refusal."""


class TransferServer:
    """Accepts transfer connections and hands each to the service that its first frame asks for.

    Args:
        services: A `KvReceiver`, an `EmbeddingStore`, or both.
        host: Address to listen on.
        port: Port to listen on; 0 lets the system choose.
        advertised_host: Name under which other hosts reach this one; needed when `host` is every interface.
        max_connections: Connections beyond this are refused.
        timeouts: Patience with peers.

    Raises:
        FailedPrecondition: The address cannot be listened on.
        InvalidArgument: `host` is every interface and `advertised_host` is empty.
    """

    def __init__(
        self,
        services: Sequence[Service],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        advertised_host: str = "",
        max_connections: int = 256,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  (frozen)
    ) -> None:
        if host in _EVERYWHERE and not advertised_host:
            raise InvalidArgument("a server on every interface needs an advertised host", field="advertised_host")
        self._services = {service.opening: service for service in services}
        self._timeouts = timeouts
        self._max_connections = max_connections
        self._lock = threading.Lock()
        self._serving: dict[Connection, threading.Thread] = {}
        self._stopped = threading.Event()
        try:
            self._listener = socket.create_server((host, port), family=_family(host))
        except (OSError, OverflowError) as error:
            raise FailedPrecondition(f"cannot listen on {host}:{port}: {error}", field="port") from error
        self._listener.settimeout(_POLL_S)
        bound_port = self._listener.getsockname()[1]
        name = advertised_host or host
        self.endpoint = Endpoint(f"[{name}]:{bound_port}" if ":" in name else f"{name}:{bound_port}", host_id())
        self._acceptor = threading.Thread(target=self._accept, name=f"transfer-accept-{bound_port}", daemon=True)
        self._acceptor.start()

    @property
    def connections(self) -> int:
        """Connections open now."""
        return len(self._serving)

    def shutdown(self) -> None:
        """Cuts every connection and waits for the threads; idempotent."""
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            serving = dict(self._serving)
        for connection in serving:
            connection.cut()
        for thread in serving.values():
            thread.join()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                peer, _ = self._listener.accept()
                self._admit(Connection(peer, self._timeouts))
            except TimeoutError:
                continue
            except (OSError, RuntimeError) as error:
                # Out of descriptors or threads: there will be some again.
                if not self._stopped.wait(_POLL_S):
                    _log.warning("cannot accept a transfer connection: %s", error)

    def _admit(self, connection: Connection) -> None:
        with self._lock:
            if len(self._serving) < self._max_connections:
                thread = threading.Thread(target=self._serve, args=(connection,), name="transfer-serve", daemon=True)
                thread.start()
                self._serving[connection] = thread
                return
        self._refuse(connection, Unavailable(f"all {self._max_connections} transfer connections are taken"))
        connection.close()

    def _serve(self, connection: Connection) -> None:
        try:
            first = connection.receive().frame
            service = self._services.get(type(first))
            if service is None:
                raise Unavailable(f"this worker does not serve {type(first).__name__}")
            service.serve(connection, first)
        except TriptychError as error:
            _log.info("transfer connection ended: %s", error)
            self._refuse(connection, error)
        except Exception:
            _log.exception("transfer connection failed")
        finally:
            connection.close()
            with self._lock:
                del self._serving[connection]

    @staticmethod
    def _refuse(connection: Connection, error: TriptychError) -> None:
        with contextlib.suppress(TriptychError):
            connection.send(Refusal.of(error))


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
