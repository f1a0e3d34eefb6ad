"""A router without its sockets: every request and every worker that it knows."""

from triptych.core.desk.audit import Audit
from triptych.core.desk.desk import Desk
from triptych.core.desk.entry import Counters, Entry, Submission
from triptych.core.desk.orders import Cut, Order, Orders, Perform, TellDrain
from triptych.core.desk.seats import Seat, Seats

__all__ = [
    "Audit",
    "Counters",
    "Cut",
    "Desk",
    "Entry",
    "Order",
    "Orders",
    "Perform",
    "Seat",
    "Seats",
    "Submission",
    "TellDrain",
]
