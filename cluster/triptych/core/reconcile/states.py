"""What can be true of one worker. Times are seconds of the controller's clock.

           start            started             given up
Absent ──────────▶ Starting ───────▶ Serving ◀───────────▶ Silent
   ▲                  │ failed        │   │      heard      │  │
   │ wait is over     ▼          died │   │ drain      died │  │ too long
Backoff              Dead ◀───────────┴───┼─────────────────╯  │
   ▲                  │                   ▼                    │
   │                  │ stop          Draining                 │
   │                  │                   │ empty, died,       │ kill
   │                  │                   │ or out of time     │
   │ wanted           ▼       stop        ▼                    │
   ╰────────────── Stopping ◀───────── Drained                 │
                     │   ▲                                     │
         not wanted  ▼   ╰─────────────────────────────────────╯
                    gone
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Absent:
    """Wanted, and nothing of it exists."""


@dataclass(frozen=True, slots=True)
class Starting:
    """Its actor is placed and loads."""

    since: float


@dataclass(frozen=True, slots=True)
class Serving:
    """It serves."""

    since: float


@dataclass(frozen=True, slots=True)
class Silent:
    """Its process lives, and the router has given it up since `lost_at`; at `until` it is killed."""

    since: float
    lost_at: float
    until: float


@dataclass(frozen=True, slots=True)
class Draining:
    """It gets no new work; what runs there ends, is moved after `patience` seconds, or is cut off at `deadline`."""

    patience: float
    deadline: float


@dataclass(frozen=True, slots=True)
class Drained:
    """Nothing runs there any more."""


@dataclass(frozen=True, slots=True)
class Dead:
    """It serves no longer, but its actor may still be there; `delay` seconds after that is gone it may start."""

    delay: float


@dataclass(frozen=True, slots=True)
class Stopping:
    """Its actor is being ended; `delay` seconds after that it may start, if it is wanted."""

    delay: float


@dataclass(frozen=True, slots=True)
class Backoff:
    """Nothing of it exists, and it is not started before `until`."""

    until: float


State = Absent | Starting | Serving | Silent | Draining | Drained | Dead | Stopping | Backoff
