"""What a router needs to run without a model: one whose tokens are bytes, and workers that answer at once."""

from triptych.router.testing.model import byte_intake
from triptych.router.testing.worker import QuickWorker

__all__ = ["QuickWorker", "byte_intake"]
