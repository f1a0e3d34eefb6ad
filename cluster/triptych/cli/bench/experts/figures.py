"""What an arm came to: one JSON line."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from triptych.cli.bench.experts.arms import Arm, Cached, budget_name
from triptych.cli.bench.experts.replaying import Replay
from triptych.cli.bench.experts.serving import Served
from triptych.cli.bench.experts.work import Work
from triptych.core.errors import TriptychError, describe

RSS_SLACK = 1.1


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one arm, medians of all rounds; of decoding alone, but for `first_hit`.

    Attributes:
        arm: Its name.
        policy: Who kept a slot; "" where that does not apply, here and below.
        prefetch: Who was read in advance.
        shares: How layers divided the budget.
        budget: In words.
        ranks: That divide the experts; budgets, counts and peaks are those of the first.
        batch: Answers at a time.
        tok_s: Tokens a second of all answers.
        hit: Share of the demand that was there, or read in advance.
        recall: Share of what was absent that was read in advance; None where nothing was, here and below.
        precision: Share of what was read in advance that was needed.
        wasted_bytes: Of a token: read in advance and not needed.
        reads_per_token: Experts.
        read_mb_per_token: Megabytes (10^6 bytes).
        stall_ms_per_token: Milliseconds that computing waited.
        peak_rss: Bytes resident at most, mapped files included, of the worst round.
        allowed_rss: The resident arm's least peak less all experts that it maps, and 1.1 budgets; 0 where there is
            nothing to compare.
        experts_saved: Share of the bytes of all experts that the pool does not have.
        rss_saved: By how much the peak is below the resident arm's, as a share of all experts that it maps: medians
            of all rounds; None where there is nothing to compare.
        equal: Whether tokens and log-probabilities are those of the resident arm on as many ranks; None without it.
        as_one_rank: Whether tokens are those of the resident arm on one rank; None without it.
        first_hit: As `hit`, from an empty pool over the first answers and their prompts; of the round that is
            farthest from its replay.
        replayed_hit: What replay makes of that round, reading in advance when it did; None where it has no opinion.
        bound: Tokens a second that nobody exceeds: of the disk's time for the fewest reads there can be, and the
            least time that any arm computed for, the longer; None without the resident arm.
        switched_off: Whether reading in advance was given up.
        rounds: Of the median.
    """

    arm: str
    policy: str
    prefetch: str
    shares: str
    budget: str
    ranks: int
    batch: int
    tok_s: float
    hit: float
    recall: float | None
    precision: float | None
    wasted_bytes: float
    reads_per_token: float
    read_mb_per_token: float
    stall_ms_per_token: float
    peak_rss: int
    allowed_rss: int
    experts_saved: float
    rss_saved: float | None
    equal: bool | None
    as_one_rank: bool | None
    first_hit: float
    replayed_hit: float | None
    bound: float | None
    switched_off: bool
    rounds: int

    @property
    def line(self) -> dict[str, str | float | bool | None]:
        """As JSON has it: figures to four digits or so."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Failed:
    """An arm that could not be run.

    Attributes:
        arm: Its name.
        budget: In words.
        error: Why.
    """

    arm: str
    budget: str
    error: str

    @classmethod
    def of(cls, arm: Arm, error: TriptychError) -> "Failed":
        """The line of an arm."""
        return cls(arm.name, budget_name(arm), describe(error))

    @property
    def line(self) -> dict[str, str]:
        """As JSON has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Beside:
    """What arms are compared with.

    Attributes:
        expert_bytes: Of all experts, as they are where all are in memory.
        resident: The arm that has them all in memory, if it was run; on as many ranks as the others.
        bandwidth: Bytes a second that the disk gives.
        one_rank: The same arm on one rank.
        computing: Seconds a token, the least of all arms: `computing_seconds`.
        mapped_bytes: Of all experts, without the padding that they have in a packed file.
    """

    expert_bytes: int
    resident: Sequence[Served]
    bandwidth: float
    one_rank: Sequence[Served]
    computing: float
    mapped_bytes: int

    def step(self, work: Work) -> float:
        """Seconds of a step of the resident arm; a hundredth where it was not run."""
        if not self.resident:
            return 0.01
        return statistics.median(one.seconds for one in self.resident) * work.batch / work.answered


def computing_seconds(served: Sequence[Served], work: Work) -> float:
    """Of a token: what an arm did not wait for reads, the median of its rounds.

    Arms with a pool may compute faster than the resident one: they have weights in twelve bits, and larger pages.
    """
    return statistics.median(one.seconds - one.stall for one in served) / work.answered


def figures(
    arm: Arm, ranks: int, served: Sequence[Served], work: Work, foreseen: Replay | None, beside: Beside
) -> Figures:
    """An arm's line.

    Args:
        arm: The arm.
        ranks: It ran on.
        served: Of each round; at least one.
        work: What it completed.
        foreseen: What replay makes of the arm; None for the resident one, for one whose answers take
            turns, and for several ranks.
        beside: What it is compared with.
    """
    middle = sorted(served, key=lambda one: one.seconds)[len(served) // 2]
    then, tokens = middle.then, work.answered
    first_hit, replayed_hit = _farthest(served, foreseen)
    settings = (arm.policy, arm.prefetch, arm.shares) if isinstance(arm, Cached) else ("", "", "")
    peak = max(one.peak_bytes for one in served)
    return Figures(
        arm.name,
        *settings,
        budget=budget_name(arm),
        ranks=ranks,
        batch=work.batch,
        tok_s=tokens / statistics.median(one.seconds for one in served),
        hit=1.0 if then is None else then.hit_ratio,
        recall=then.recall if then is not None and then.prefetched else None,
        precision=then.precision if then is not None and then.prefetched else None,
        wasted_bytes=0.0 if then is None else then.wasted_bytes / tokens,
        reads_per_token=0.0 if then is None else then.reads / tokens,
        read_mb_per_token=0.0 if then is None else then.read_bytes / tokens / 1e6,
        stall_ms_per_token=0.0 if then is None else then.stall_ns / tokens / 1e6,
        peak_rss=peak,
        allowed_rss=0 if ranks > 1 else _allowed(middle, beside),
        experts_saved=1 - ranks * middle.pool_bytes / beside.expert_bytes if middle.pool_bytes else 0.0,
        rss_saved=None if ranks > 1 else _rss_saved(served, beside),
        equal=_equal(served, beside.one_rank if ranks == 1 else beside.resident),
        as_one_rank=_same_tokens(served, beside.one_rank),
        first_hit=first_hit,
        replayed_hit=replayed_hit,
        bound=_bound(foreseen, beside) if isinstance(arm, Cached) else None,
        switched_off=then is not None and then.switched_off,
        rounds=len(served),
    )


def _farthest(served: Sequence[Served], foreseen: Replay | None) -> tuple[float, float | None]:
    """Live and replayed hit ratio of the round where they differ most; of the first, where none is replayed."""
    live = [1.0 if one.first is None else one.first.hit_ratio for one in served]
    if foreseen is None:
        return live[0], None
    return max(zip(live, foreseen.hits, strict=True), key=lambda pair: abs(pair[0] - pair[1]))


def _allowed(served: Served, beside: Beside) -> int:
    if not served.pool_bytes or not beside.resident:
        return 0
    least = min(resident.peak_bytes for resident in beside.resident)
    return least - beside.mapped_bytes + round(RSS_SLACK * served.pool_bytes)


def _rss_saved(served: Sequence[Served], beside: Beside) -> float | None:
    if not served[0].pool_bytes or not beside.resident:
        return None
    ours, theirs = (statistics.median(one.peak_bytes for one in each) for each in (served, beside.resident))
    return (theirs - ours) / beside.mapped_bytes


def _equal(served: Sequence[Served], resident: Sequence[Served]) -> bool | None:
    if not resident:
        return None
    return {one.digest for one in served} == {resident[0].digest}


def _same_tokens(served: Sequence[Served], resident: Sequence[Served]) -> bool | None:
    if not resident:
        return None
    return {one.tokens for one in served} == {resident[0].tokens}


def _bound(foreseen: Replay | None, beside: Beside) -> float | None:
    if foreseen is None or not beside.resident:
        return None
    return 1 / max(beside.computing, foreseen.fewest_bytes_per_token / beside.bandwidth)
