"""Where the cluster is and how long to wait: arguments first, then the environment, read once."""

import math
import os
from dataclasses import dataclass
from typing import Final, Self

from triptych.client.pursuit import Terms
from triptych.core.errors import InvalidArgument
from triptych.wire.limits import MESSAGE_LIMITS
from triptych.wire.liveness import CLIENT_KEEPALIVE, RECONNECT

DEFAULT_ADDRESS: Final = "127.0.0.1:50051"
DEFAULT_RECONNECT: Final = 60.0
CHANNEL_OPTIONS: Final = (
    *MESSAGE_LIMITS,
    *CLIENT_KEEPALIVE,
    *RECONNECT,
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
)
"""A cluster is reached directly; an HTTP proxy of the environment is for the web. Requests are sent again by the SDK,
not by the transport, which only has to look for a lost server about as often as the SDK asks for it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What every call of one client shares.

    Attributes:
        address: "HOST:PORT" or "unix:PATH".
        timeout: Seconds until the deadline of a call; None means none.
        reconnect: Seconds in which a request looks for a server that went away; 0 gives it up at once.
    """

    address: str
    timeout: float | None
    reconnect: float = DEFAULT_RECONNECT

    @classmethod
    def read(cls, address: str | None, timeout: float | None, reconnect: float = DEFAULT_RECONNECT) -> Self:
        """Fills in TRIPTYCH_ADDRESS and TRIPTYCH_TIMEOUT for what is not given.

        Raises:
            InvalidArgument: the address has no port, the timeout is not positive, or `reconnect` is negative.
        """
        address = address or os.environ.get("TRIPTYCH_ADDRESS") or DEFAULT_ADDRESS
        if not address.startswith("unix:") and not address.rpartition(":")[2].isdecimal():
            raise InvalidArgument(f"address must be HOST:PORT, got {address!r:.80}", field="address")
        patience = not_negative(reconnect, "reconnect")
        variable = os.environ.get("TRIPTYCH_TIMEOUT")
        if timeout is not None:
            return cls(address, _positive(timeout, "timeout"), patience)
        return cls(address, _positive(variable, "TRIPTYCH_TIMEOUT") if variable else None, patience)

    def deadline(self, timeout: float | None) -> float | None:
        """The seconds of one call: its own timeout, or else the client's."""
        return self.timeout if timeout is None else _positive(timeout, "timeout")

    def terms(self, timeout: float | None, reconnect: float | None) -> Terms:
        """How long one request is pursued: its own limits, or else the client's."""
        patience = self.reconnect if reconnect is None else not_negative(reconnect, "reconnect")
        return Terms(self.deadline(timeout), patience)


def not_negative(value: float, field: str) -> float:
    """Seconds that may be none.

    Raises:
        InvalidArgument: names the field.
    """
    seconds = _seconds(value)
    if not seconds >= 0:
        raise InvalidArgument(f"{field} must be a number of seconds, 0 or more; got {value!r:.80}", field=field)
    return seconds


def _positive(value: float | str, field: str) -> float:
    seconds = _seconds(value)
    if not seconds > 0:
        raise InvalidArgument(f"{field} must be a positive number of seconds, got {value!r:.80}", field=field)
    return seconds


def _seconds(value: float | str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan
