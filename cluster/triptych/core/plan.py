"""What a request asks of the fleet, and which workers it gets."""

import enum
from dataclasses import dataclass


class Placement(enum.Enum):
    """What the caller asks for."""

    ANY = enum.auto()
    """The router chooses."""
    COLOCATED = enum.auto()
    """Prefill and decode on one worker."""
    DISAGGREGATED = enum.auto()
    """Prefill and decode on different workers."""


class Goal(enum.Enum):
    """What the caller wants to have."""

    ANSWER = enum.auto()
    """Tokens, by prefill and decode."""
    VECTORS = enum.auto()
    """Embeddings of texts: one worker computes them, and the request ends when they are there."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request asks of the fleet.

    Attributes:
        prompt_tokens: Every position of the prompt.
        patches: Of each image, those that pass the vision tower: what encoding it costs.
        near: Workers that hold its prompt already; they are preferred, as long as they have room.
        goal: What is made of the prompt.
    """

    prompt_tokens: int
    patches: tuple[int, ...] = ()
    placement: Placement = Placement.ANY
    near: frozenset[str] = frozenset()
    goal: Goal = Goal.ANSWER


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """Limits of the rule.

    Attributes:
        colocate_below_tokens: Shorter prompts are prefilled where they are decoded: a transfer would cost more.
        max_requests_per_worker: Length of the queue before each worker, running requests included.
        retry_after: Seconds that a refused caller is told to wait.
    """

    colocate_below_tokens: int = 0
    max_requests_per_worker: int = 256
    retry_after: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The workers of one request.

    Attributes:
        encode: The worker of each image, in order; empty without images.
        prefill: Equal to `decode` when colocated, and when the goal is vectors: then it is the one that makes them.
        reason: Why, in a few words, for people.
    """

    encode: tuple[str, ...]
    prefill: str
    decode: str
    reason: str

    @property
    def colocated(self) -> bool:
        """Whether prefill and decode share a worker and its KV."""
        return self.prefill == self.decode

    @property
    def name(self) -> str:
        """The layout that the request sees: "colocated", "PD", "EPD" or "ED"."""
        if not self.encode:
            return "colocated" if self.colocated else "PD"
        return "ED" if self.colocated else "EPD"
