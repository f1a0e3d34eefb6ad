"""The work of a worker that makes vectors of texts: a queue with bounds, and batches over several requests."""

from triptych.core.texts.control import TextControl
from triptych.core.texts.job import Acknowledge, Action, Answer, Batch, Refuse, TextJob

__all__ = ["Acknowledge", "Action", "Answer", "Batch", "Refuse", "TextControl", "TextJob"]
