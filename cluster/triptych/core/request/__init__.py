"""One request, from its acceptance to its end."""

from triptych.core.request.record import Record, Terms, accepted, wakeup
from triptych.core.request.step import step

__all__ = ["Record", "Terms", "accepted", "step", "wakeup"]
