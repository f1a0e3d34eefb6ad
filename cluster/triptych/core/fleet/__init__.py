"""The workers: what each can do, how it is, what was sent to it."""

from triptych.core.fleet.load import Load
from triptych.core.fleet.stage import Stage
from triptych.core.fleet.worker import Fleet, Health, Introduction, Report, Worker

__all__ = ["Fleet", "Health", "Introduction", "Load", "Report", "Stage", "Worker"]
