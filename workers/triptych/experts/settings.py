"""How much memory experts may take, and who has it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, assert_never

from triptych.core.errors import InvalidArgument
from triptych.core.sizes import format_bytes, parse_bytes

PolicyName = Literal["lfu-decay", "lru", "static-hot", "ring"]
PredictorName = Literal["next-gate", "route", "none"]
Shares = Literal["uniform", "shallow", "measured"]
Cold = Literal["copied", "soonest"]
Rounding = Literal["int8", "int4"]

_FIELD: Final = "experts.budget"


@dataclass(frozen=True, slots=True)
class Bytes:
    """A budget in bytes, for all layers together, of one rank."""

    count: int


@dataclass(frozen=True, slots=True)
class Fraction:
    """A budget as a share of what all experts of the rank take, in (0, 1]."""

    of_all: float


@dataclass(frozen=True, slots=True)
class Auto:
    """As much as this machine has to spare: `triptych.experts.fit`."""


Budget = Bytes | Fraction | Auto

_SHARE: Final = re.compile(r"(\d{1,3}(?:\.\d{1,3})?) ?%")


def parse_budget(value: object) -> Budget:
    """Reads a number of bytes, or a text: "auto", a share such as "50%", or a size such as "1.5GiB".

    Raises:
        InvalidArgument: anything else, or nothing, or more than all.
    """
    text = value.strip() if isinstance(value, str) else ""
    if text == "auto":
        return Auto()
    if match := _SHARE.fullmatch(text):
        share = float(match[1]) / 100
        if not 0 < share <= 1:
            raise InvalidArgument(f"experts.budget must be above 0% and at most 100%, got {text}", field=_FIELD)
        return Fraction(share)
    try:
        count = parse_bytes(value)
    except ValueError:
        raise InvalidArgument(
            f"experts.budget must be auto, a share such as 50%, or a size such as 1.5GiB, got {value!r:.60}",
            field=_FIELD,
        ) from None
    if count < 1:
        raise InvalidArgument(f"experts.budget must be positive, got {count}", field=_FIELD)
    return Bytes(count)


def format_budget(budget: Budget) -> str:
    """What `parse_budget` reads."""
    match budget:
        case Bytes(count):
            return format_bytes(count)
        case Fraction(of_all):
            return f"{of_all * 100:.6g}%"
        case Auto():
            return "auto"
        case _:
            assert_never(budget)


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadSettings:
    """How experts that do not all fit are kept. No answer depends on it, except with `lossy` and `cold`.

    Attributes:
        budget: Of the slots that hold experts.
        policy: Who keeps a slot.
        prefetch: Who is read before it is asked for.
        shares: How the budget is divided among layers.
        compact: Whether bfloat16 experts are kept and read in twelve bits a weight, which loses nothing: on CPUs,
            where not `lossy`, and where the exponents of all of them allow it.
        lossy: What experts that their layer does not keep are read rounded to, and stay while they stay: eight bits
            (True as well), four, or nothing. Slots have room for exact ones; pinned host memory keeps them rounded.
        regroup: Whether requests that need the same experts take turns with others, within a bound of fairness, where
            that reads less; with `lru`.
        readers: Threads that read the packed file.
        widen: Experts beyond the router's own number that `next-gate` asks for.
        speculation: Share of the pool that may hold what was read in advance and not asked for yet.
        route: What `triptych experts train` has written, for `route`.
        warm: Whether who was needed most is remembered, and read first at the next start.
        host_budget: Bytes of pinned host memory between the packed file and an accelerator, of each rank; None is
            room for all experts, or half of the free memory divided by the engine's ranks, or by the accelerators of
            the host that it sees if those are more. With `lossy` that is room for all of them exact, in whole slots
            of rounded ones: about 1.07 times their bytes (`int8`) or 1.17 times (`int4`); and with `cold` soonest for
            those of one layer twice. Nothing on CPUs.
        cold: What becomes of experts that an accelerator does not have and will not keep: they are copied to it; or
            the CPU computes them where measured finish times say that it is done sooner, and the answer is then that
            of other rounding.
    """

    budget: Budget
    policy: PolicyName = "lfu-decay"
    prefetch: PredictorName = "next-gate"
    shares: Shares = "uniform"
    compact: bool = True
    lossy: bool | Rounding = False
    regroup: bool = False
    readers: int = 4
    widen: int = 0
    speculation: float = 0.02
    route: Path | None = None
    warm: bool = True
    host_budget: int | None = None
    cold: Cold = "copied"

    @property
    def rounding(self) -> Rounding | None:
        """What `lossy` says; None where nothing is read rounded."""
        return "int8" if self.lossy is True else self.lossy or None

    def twelve_bits(self, device: str) -> bool:
        """Whether bfloat16 experts are kept in twelve bits a weight on a device, if they allow it."""
        return self.compact and not self.lossy and device.startswith("cpu")

    def __post_init__(self) -> None:
        """Refuses what cannot be meant."""
        match self.budget:
            case Bytes(count) if count < 1:
                raise InvalidArgument(f"experts.budget must be positive, got {count}", field="experts.budget")
            case Fraction(of_all) if not 0 < of_all <= 1:
                raise InvalidArgument(
                    f"experts.budget must be in (0%, 100%], got {of_all:.0%}", field="experts.budget"
                )
        if self.prefetch == "route" and self.route is None:
            raise InvalidArgument(
                "experts.prefetch is route, which needs experts.route: what `triptych experts train` has written",
                field="experts.route",
            )
        if self.regroup and self.policy != "lru":  # the others keep who was needed most, whoever's turn it is
            raise InvalidArgument(
                f"experts.regroup needs experts.policy lru, got {self.policy}", field="experts.regroup"
            )
        _require("readers", self.readers, 1, 64)
        _require("widen", self.widen, 0, 256)
        _require("speculation", self.speculation, 0, 1)
        if self.host_budget is not None:
            _require("host_budget", self.host_budget, 1, 1 << 62)


def _require(name: str, value: float, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidArgument(f"experts.{name} must be in [{low}, {high}], got {value}", field=f"experts.{name}")


def offload_settings(given: OffloadSettings | str | int | None) -> OffloadSettings | None:
    """As given, or with a budget alone; None keeps all experts in memory.

    Raises:
        InvalidArgument: as `parse_budget`.
    """
    if given is None or isinstance(given, OffloadSettings):
        return given
    return OffloadSettings(budget=parse_budget(given))
