"""What is compared: all experts in memory, none, and every way to keep some."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

from triptych.core.errors import InvalidArgument
from triptych.experts.settings import (
    Budget,
    Bytes,
    OffloadSettings,
    PolicyName,
    PredictorName,
    Shares,
    parse_budget,
)


@dataclass(frozen=True, slots=True)
class Resident:
    """All experts stay in memory."""

    name = "resident"


@dataclass(frozen=True, slots=True)
class OnDemand:
    """Every expert is read when it is asked for, with the same threads and past the page cache, and none is kept."""

    name = "load-on-demand"


@dataclass(frozen=True, slots=True)
class Cached:
    """Some experts stay in memory.

    Attributes:
        name: As a user chooses it.
        policy: Who keeps a slot.
        prefetch: Who is read in advance.
        shares: How layers divide the budget.
        budget: Of the slots.
        words: The budget as its user wrote it.
        regroup: Whether answers that need the same experts take turns with others.
    """

    name: str
    policy: PolicyName
    prefetch: PredictorName
    shares: Shares
    budget: Budget
    words: str
    regroup: bool = False


Arm = Resident | OnDemand | Cached

DEFAULT: Final = "lfu-decay+next-gate"
"""The arm with the default settings, which the targets are about."""

REGROUPED: Final = "lru+regroup"
"""The arm whose answers take turns: of use where several are completed together."""

KEPT: Final[Mapping[str, tuple[PolicyName, PredictorName, Shares]]] = {
    "lru": ("lru", "none", "uniform"),
    "lfu-decay": ("lfu-decay", "none", "uniform"),
    "static-hot": ("static-hot", "none", "uniform"),
    "ring": ("ring", "next-gate", "uniform"),  # the ring is a policy that has a predictor of its own
    DEFAULT: ("lfu-decay", "next-gate", "uniform"),
    "lfu-decay+route": ("lfu-decay", "route", "uniform"),
    "shallow": ("lfu-decay", "none", "shallow"),
    "measured": ("lfu-decay", "none", "measured"),
    "lru+next-gate": ("lru", "next-gate", "uniform"),
    "lru+route": ("lru", "route", "uniform"),
    "static-hot+next-gate": ("static-hot", "next-gate", "uniform"),
    "static-hot+route": ("static-hot", "route", "uniform"),
    REGROUPED: ("lru", "none", "uniform"),
}
NAMES: Final = (Resident.name, OnDemand.name, *KEPT)
DEFAULT_ARMS: Final = ",".join(NAMES[: NAMES.index("shallow")])


def parse_arms(names: str, budgets: str) -> tuple[Arm, ...]:
    """The arms of `--arms` at each of `--budgets`: percentages as bare numbers, else as `experts.budget` has them.

    Those with all experts and with none come first; the targets compare the others with them.

    Raises:
        InvalidArgument: there is no such arm, or a budget is none.
    """
    chosen = names.split(",")
    if unknown := [name for name in chosen if name not in NAMES]:
        raise InvalidArgument(f"--arms must be of {', '.join(NAMES)}, got {unknown[0]!r:.40}", field="arms")
    ends: list[Arm] = [arm for arm in (Resident(), OnDemand()) if arm.name in chosen]
    sizes = [f"{part}%" if part.isdecimal() else part for part in budgets.split(",")]
    kept = (
        Cached(name, *KEPT[name], parse_budget(size), size, regroup=name == REGROUPED)
        for size in sizes
        for name in chosen
        if name in KEPT
    )
    return (*ends, *kept)


def needs_past(arms: Sequence[Arm]) -> bool:
    """Whether any arm knows what was asked for on other texts."""
    return any(isinstance(arm, Cached) and (arm.prefetch == "route" or knows_uses(arm)) for arm in arms)


def knows_uses(arm: Arm) -> bool:
    """Whether an arm begins with how often each expert was asked for on other texts."""
    return isinstance(arm, Cached) and (arm.policy == "static-hot" or arm.shares == "measured")


def offload(arm: Arm, layer_bytes: int, route: Path | None) -> OffloadSettings | None:
    """An arm as settings of an engine.

    Args:
        arm: The arm.
        layer_bytes: Of the experts of the largest layer, as they lie in the packed file.
        route: What has been trained on other texts.
    """
    match arm:
        case Resident():
            return None
        case OnDemand():
            return OffloadSettings(budget=Bytes(layer_bytes), policy="ring", prefetch="none", warm=False)
        case Cached(_, policy, prefetch, shares, budget, _, regroup):
            return OffloadSettings(
                budget=budget,
                policy=policy,
                prefetch=prefetch,
                shares=shares,
                warm=knows_uses(arm),
                route=route if prefetch == "route" else None,
                regroup=regroup,
            )
        case _:
            assert_never(arm)


def budget_name(arm: Arm) -> str:
    """As tables have it."""
    return arm.words if isinstance(arm, Cached) else ""
