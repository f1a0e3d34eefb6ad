"""Which experts stay in memory: pure decisions."""

from triptych.experts.cache.demand import Ensured
from triptych.experts.cache.expert_cache import ExpertCache
from triptych.experts.cache.scores import DecayedUses, Fixed, LastUse, Scores
from triptych.experts.cache.slots import Cause, Empty, Load, Loading, Ready, Slot

__all__ = [
    "Cause",
    "DecayedUses",
    "Empty",
    "Ensured",
    "ExpertCache",
    "Fixed",
    "LastUse",
    "Load",
    "Loading",
    "Ready",
    "Scores",
    "Slot",
]
