"""Reservations of KV blocks for a sender that may die at any moment: who may write what, until when."""

from triptych.core.leases.divided import DividedLedger
from triptych.core.leases.ledger import Admission, Audit, Busy, Duplicate, Ledger, Write
from triptych.core.leases.reservation import (
    MAX_MISMATCHES,
    Closed,
    Closing,
    Complete,
    Lost,
    Open,
    Outcome,
    Receiving,
    Reservation,
    State,
)

__all__ = [
    "MAX_MISMATCHES",
    "Admission",
    "Audit",
    "Busy",
    "Closed",
    "Closing",
    "Complete",
    "DividedLedger",
    "Duplicate",
    "Ledger",
    "Lost",
    "Open",
    "Outcome",
    "Receiving",
    "Reservation",
    "State",
    "Write",
]
