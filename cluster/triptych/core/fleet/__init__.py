"""The workers: what each can do, how it is, what was sent to it."""

from triptych.core.fleet.legacy import Fleet, Worker
from triptych.core.fleet.stage import Stage
from triptych.core.fleet.worker import Health

__all__ = ["Fleet", "Health", "Stage", "Worker"]
