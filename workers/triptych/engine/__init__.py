"""The engine: scheduler, paged KV cache, step loop and sampler.

Each step is a few calls::

plan    = scheduler.schedule()         which tokens of which sequences, in which blocks: pure
pending = runner.launch(plan)          one varlen batch through the model, then sampling: tensors
          scheduler.prepare(plan)      meanwhile: the next step's blocks and rows, the last step's text
result  = pending.wait()
emitted = scheduler.commit(plan, result)

Where ranks divide the model, `engine.ranks` runs the steps on all of them; where they have sequences of their own,
`engine.lanes` is the scheduler.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triptych.core.chat import ChatOptions
    from triptych.core.inputs import ChatInput
    from triptych.core.sampling import SamplingParams
    from triptych.engine.answer import Completion
    from triptych.engine.embedder import Embedder
    from triptych.engine.engine import Engine

__all__ = ["ChatInput", "ChatOptions", "Completion", "Embedder", "Engine", "SamplingParams"]

_MODULES = {
    "ChatInput": "triptych.core.inputs",
    "ChatOptions": "triptych.core.chat",
    "Completion": "triptych.engine.answer",
    "Embedder": "triptych.engine.embedder",
    "Engine": "triptych.engine.engine",
    "SamplingParams": "triptych.core.sampling",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is asked for: ranks have no texts, and start sooner without them."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value
