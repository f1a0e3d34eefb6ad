"""The engine: scheduler, paged KV cache, step loop and sampler.

Each step is a few calls::

plan    = scheduler.schedule()         which tokens of which sequences, in which blocks: pure
pending = runner.launch(plan)          one varlen batch through the model, then sampling: tensors
          scheduler.prepare(plan)      meanwhile: the next step's blocks and rows, the last step's text
result  = pending.wait()
emitted = scheduler.commit(plan, result)
"""

from triptych.core.chat import ChatOptions
from triptych.core.inputs import ChatInput
from triptych.core.sampling import SamplingParams
from triptych.engine.answer import Completion
from triptych.engine.embedder import Embedder
from triptych.engine.engine import Engine

__all__ = ["ChatInput", "ChatOptions", "Completion", "Embedder", "Engine", "SamplingParams"]
