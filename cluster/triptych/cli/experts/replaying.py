"""Replays a recording under many settings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TypeVar, get_args

from triptych.core.errors import InvalidArgument
from triptych.experts.pool import judged
from triptych.experts.settings import Bytes, Fraction, OffloadSettings, PolicyName, PredictorName, Shares
from triptych.experts.traces import GIVEN_UP, Device, Replayed, RouteModel, Routes, Script, fewest_reads
from triptych.experts.traces import replay as replay_arm
from triptych.experts.traces.arms import Arms

_Name = TypeVar("_Name", bound=str)


@dataclass(frozen=True, slots=True)
class Choice:
    """What is replayed: each of these with each."""

    policies: tuple[PolicyName, ...]
    predictors: tuple[PredictorName, ...]
    shares: tuple[Shares, ...]
    route: Path | None

    @classmethod
    def of(cls, policies: str, predictors: str, shares: str, route: Path | None) -> "Choice":
        """Of lists as users write them.

        Raises:
            InvalidArgument: a name is none of theirs.
        """
        asked = _names(predictors, get_args(PredictorName), "predictors")
        if route is not None and "route" not in asked:
            asked = (*asked, "route")
        return cls(
            _names(policies, get_args(PolicyName), "policies"),
            asked,
            _names(shares, get_args(Shares), "shares"),
            route,
        )

    def settings(self, percent: float) -> Iterator[tuple[str, OffloadSettings]]:
        """By name; `ring` keeps nobody and reads everybody, whatever the others say."""
        budget = Fraction(percent / 100)
        for policy, predictor, shares in product(self.policies, self.predictors, self.shares):
            if policy == "ring":
                continue
            name = " ".join((policy, *(part for part in (predictor, shares) if part not in ("none", "uniform"))))
            yield (
                name,
                OffloadSettings(budget=budget, policy=policy, prefetch=predictor, shares=shares, route=self.route),
            )
        if "ring" in self.policies:
            yield "ring", OffloadSettings(budget=budget, policy="ring")


@dataclass(frozen=True, slots=True)
class Line:
    """What one arm came to at one budget; figures are of decoding, with reading in advance on throughout.

    Attributes:
        arm: Its name.
        budget: Percent of all experts.
        hit: Share of the demand that no read of the step had to serve.
        kept: Share of the demand that was there since an earlier step.
        recall: Share of the rest that was read in advance.
        precision: Share of what was read in advance that was asked for.
        wasted: Bytes a token, read in advance and not asked for.
        reads: A token, of experts.
        stall: Milliseconds a token that computing waits for reads.
        tok_s: Tokens a second.
        hit_off: As `hit`, where reading in advance has been given up; None where nothing is read in advance.
        tok_s_off: As `tok_s`, likewise: an engine gives it up where these are clearly more.
    """

    arm: str
    budget: float
    hit: float
    kept: float
    recall: float | None
    precision: float | None
    wasted: float
    reads: float
    stall: float | None
    tok_s: float
    hit_off: float | None = None
    tok_s_off: float | None = None

    @classmethod
    def of(cls, arm: str, budget: float, done: Replayed, off: Replayed | None = None) -> "Line":
        """Of a replay, and of one with reading in advance given up."""
        counts, tokens = done.decode, max(done.tokens, 1)
        ahead = counts.prefetched > 0
        return cls(
            arm=arm,
            budget=budget,
            hit=counts.hit_ratio,
            kept=counts.hits / counts.demanded if counts.demanded else 1.0,
            recall=counts.recall if ahead else None,
            precision=counts.precision if ahead else None,
            wasted=counts.wasted_bytes / tokens,
            reads=done.reads_per_token,
            stall=counts.stall_ns / 1e6 / tokens,
            tok_s=done.tokens_per_second,
            hit_off=None if off is None else off.decode.hit_ratio,
            tok_s_off=None if off is None else off.tokens_per_second,
        )


def in_plain_form(routes: Routes) -> Routes:
    """The same of experts that are read as they are where all of them are in memory."""
    return replace(routes, model=replace(routes.model, blob=routes.model.resident))


def replayed(
    script: Script, choice: Choice, budgets: Sequence[float], route: RouteModel | None, device: Device
) -> Iterator[Line]:
    """At each budget: Belady's optimum, what is chosen, and reading on demand with nobody kept.

    Raises:
        InvalidArgument: a budget does not hold the experts of one layer.
        FailedPrecondition: the route was trained for another model.
    """
    arms, model = Arms(script, route), script.routes.model
    layer = Bytes(model.experts * model.blob)
    nobody = replay_arm(script, arms.of(OffloadSettings(budget=layer, policy="ring", prefetch="none")), device)
    for budget in budgets:
        chosen = dict(choice.settings(budget))
        pool = arms.of(OffloadSettings(budget=Fraction(budget / 100), prefetch="none")).pool
        fewest = fewest_reads(script.demands, pool.slots)
        hit, reads = script.hit_ratio(fewest), script.reads_per_token(fewest)
        yield Line("belady", budget, hit, hit, None, None, 0.0, reads, None, script.bound(fewest, device))
        for name, settings in chosen.items():
            arm = arms.of(settings)
            off = replay_arm(script, arm, device, GIVEN_UP) if judged(settings, arm.pool) else None
            yield Line.of(name, budget, replay_arm(script, arm, device), off)
        yield Line.of("on demand", budget, nobody)


def _names(text: str, known: tuple[_Name, ...], option: str) -> tuple[_Name, ...]:
    asked = [name.strip() for name in text.split(",")]
    found = tuple(name for one in asked for name in known if name == one)
    if len(found) != len(asked):
        raise InvalidArgument(f"--{option} must be of {', '.join(known)}, got {text!r:.60}", field=option)
    return found
