"""Where the cluster is and how long to wait: arguments first, then the environment, read once."""

import math
import os
from dataclasses import dataclass
from typing import Final, Self

from triptych.core.errors import InvalidArgument
from triptych.wire.limits import MESSAGE_LIMITS

DEFAULT_ADDRESS: Final = "127.0.0.1:50051"
CHANNEL_OPTIONS: Final = (*MESSAGE_LIMITS, ("grpc.enable_http_proxy", 0))
"""A cluster is reached directly; an HTTP proxy of the environment is for the web."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What every call of one client shares.

    Attributes:
        address: "HOST:PORT" or "unix:PATH".
        timeout: Seconds until the deadline of a call; None means none.
    """

    address: str
    timeout: float | None

    @classmethod
    def read(cls, address: str | None, timeout: float | None) -> Self:
        """Fills in TRIPTYCH_ADDRESS and TRIPTYCH_TIMEOUT for what is not given.

        Raises:
            InvalidArgument: the address has no port, or the timeout is not a positive number.
        """
        address = address or os.environ.get("TRIPTYCH_ADDRESS") or DEFAULT_ADDRESS
        if not address.startswith("unix:") and not address.rpartition(":")[2].isdecimal():
            raise InvalidArgument(f"address must be HOST:PORT, got {address!r:.80}", field="address")
        variable = os.environ.get("TRIPTYCH_TIMEOUT")
        if timeout is not None:
            return cls(address, _positive(timeout, "timeout"))
        return cls(address, _positive(variable, "TRIPTYCH_TIMEOUT") if variable else None)

    def deadline(self, timeout: float | None) -> float | None:
        """The seconds of one call: its own timeout, or else the client's."""
        return self.timeout if timeout is None else _positive(timeout, "timeout")


def _positive(value: float | str, field: str) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not seconds > 0:
        raise InvalidArgument(f"{field} must be a positive number of seconds, got {value!r:.80}", field=field)
    return seconds
