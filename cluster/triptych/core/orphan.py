"""When a worker has been without a router for too long: it ends, so that nothing outlives its lease."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Solitude:
    """How long a worker has been alone.

    Attributes:
        limit: Seconds without a router after which it is an orphan; None means never.
        since: When the last router went, or the worker began to serve; None while a router is there.
    """

    limit: float | None
    since: float | None = None

    def observe(self, routers: int, now: float) -> "Solitude":
        """What is known after so many connected routers were counted."""
        if routers:
            return replace(self, since=None)
        return self if self.since is not None else replace(self, since=now)

    def over(self, now: float) -> bool:
        """Whether the worker is to end."""
        return self.limit is not None and self.since is not None and now - self.since >= self.limit
