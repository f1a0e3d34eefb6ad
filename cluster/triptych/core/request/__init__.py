"""One request, from its acceptance to its end."""

from triptych.core.request.legacy import (
    Decoding,
    Encoding,
    Ended,
    Prefilling,
    Queued,
    Record,
    Reserving,
    State,
    Step,
    step,
)

__all__ = ["Decoding", "Encoding", "Ended", "Prefilling", "Queued", "Record", "Reserving", "State", "Step", "step"]
