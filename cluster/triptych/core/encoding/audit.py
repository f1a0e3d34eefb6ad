"""A count of everything that an encode worker knows and holds."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from triptych.core.encoding.holdings import HoldingsAudit
from triptych.core.encoding.job import Encoding, Failed, Held, JobT, Operation, Waiting
from triptych.core.generation import OperationKey


@dataclass(frozen=True, slots=True)
class EncodeAudit:
    """Operations by state, and who holds what.

    Attributes:
        problems: What is wrong with the books, in plain words; empty when they are in order.
    """

    waiting: tuple[OperationKey, ...]
    encoding: tuple[OperationKey, ...]
    held: tuple[OperationKey, ...]
    failed: tuple[OperationKey, ...]
    holdings: HoldingsAudit
    problems: tuple[str, ...]

    @property
    def quiescent(self) -> bool:
        """Whether nothing is known of anybody."""
        return not (self.waiting or self.encoding or self.held or self.failed or self.holdings.holdings)


def audit(
    operations: Mapping[OperationKey, Operation[JobT]],
    queue: Iterable[JobT],
    batch: Collection[OperationKey],
    holdings: HoldingsAudit,
) -> EncodeAudit:
    """Counts.

    Args:
        operations: Everything that is open.
        queue: What waits.
        batch: Operations of the batch under way.
        holdings: Who holds what.
    """
    states = (Waiting, Encoding, Held, Failed)
    waiting, encoding, held, failed = (
        tuple(key for key, operation in operations.items() if isinstance(operation, state)) for state in states
    )
    due = {key: pictures for key, operation in operations.items() if (pictures := _due(operation))}
    real = {holding.holder: holding.keys for holding in holdings.holdings}
    wrong = {key for key, _ in due.items() ^ real.items()}
    findings = (
        ("waits without being queued, or is queued without waiting", {job.key for job in queue} ^ set(waiting)),
        ("is being encoded in no batch", set(encoding).difference(batch)),
        ("holds other embeddings than it should", wrong),
    )
    problems = tuple(
        f"{key.request_id}/{key.epoch} {what}" for what, keys in findings for key in sorted(keys, key=str)
    )
    return EncodeAudit(waiting, encoding, held, failed, holdings, problems + holdings.problems)


def _due(operation: Operation[JobT]) -> frozenset[str]:
    match operation:
        case Encoding(job):
            return frozenset(job.pictures)
        case Held(pictures=pictures):
            return frozenset(pictures)
        case Waiting() | Failed():
            return frozenset()
