"""Desired workers against actual ones: ordered rules that start, drain, end and replace them."""

from triptych.core.reconcile.adoption import Found, adopt
from triptych.core.reconcile.backoff import RestartHistory, after_death
from triptych.core.reconcile.messages import (
    Action,
    Died,
    Drain,
    Event,
    Heard,
    Kill,
    Start,
    Started,
    StartFailed,
    Stop,
    Stopped,
)
from triptych.core.reconcile.orders import drain, scale
from triptych.core.reconcile.policy import Policy
from triptych.core.reconcile.reconcile import drains, reconcile, wake_at
from triptych.core.reconcile.roster import Roster, Worker, new_roster
from triptych.core.reconcile.states import (
    Absent,
    Backoff,
    Dead,
    Drained,
    Draining,
    Serving,
    Silent,
    Starting,
    State,
    Stopping,
)

__all__ = [
    "Absent",
    "Action",
    "Backoff",
    "Dead",
    "Died",
    "Drain",
    "Drained",
    "Draining",
    "Event",
    "Found",
    "Heard",
    "Kill",
    "Policy",
    "RestartHistory",
    "Roster",
    "Serving",
    "Silent",
    "Start",
    "StartFailed",
    "Started",
    "Starting",
    "State",
    "Stop",
    "Stopped",
    "Stopping",
    "Worker",
    "adopt",
    "after_death",
    "drain",
    "drains",
    "new_roster",
    "reconcile",
    "scale",
    "wake_at",
]
