"""The engine: scheduler, paged KV cache, step loop and sampler.

Each step is three calls::

plan   = scheduler.schedule()          which tokens of which sequences, in which blocks: pure
result = runner.execute(plan)          one varlen batch through the model, then sampling: tensors
events = scheduler.commit(plan, result)
"""

from triptych.core.sampling import SamplingParams
from triptych.engine.answer import Completion
from triptych.engine.engine import Engine

__all__ = ["Completion", "Engine", "SamplingParams"]
