"""Every operation of a decoder worker, from its command to the end of its Free.

The worker's adapter turns what routers, transfers and the engine say into commands and events, hands them to `Jobs`,
and carries out the actions that come back, in their order. The simulator's workers do the same.
"""

from triptych.core.jobs.audit import Audit
from triptych.core.jobs.book import Jobs, Pool
from triptych.core.jobs.states import Operation, State
from triptych.core.jobs.step import step

__all__ = ["Audit", "Jobs", "Operation", "Pool", "State", "step"]
