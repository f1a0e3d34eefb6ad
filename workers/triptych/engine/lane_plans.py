"""The steps of several lanes as one step, and its tokens by lane: pure."""

from collections.abc import Sequence as Sequence_
from itertools import chain

from triptych.engine.plan import StepPlan, StepResult


def merged(plans: Sequence_[StepPlan]) -> StepPlan:
    """One step of the lanes' steps, some of which may be empty."""
    return StepPlan(
        decodes=tuple(chain.from_iterable(plan.decodes for plan in plans)),
        prompts=tuple(chain.from_iterable(plan.prompts for plan in plans)),
        lanes=tuple(plans),
    )


def whole(plan: StepPlan, results: Sequence_[StepResult]) -> StepResult:
    """The result of a merged step, of those of its lanes."""
    places = {sequence: place for place, sequence in enumerate(plan.sampling)}
    token_ids = [0] * len(places)
    logprobs = {}
    for part, result in zip(plan.lanes, results, strict=True):
        for inside, (sequence, token_id) in enumerate(zip(part.sampling, result.token_ids, strict=True)):
            place = places[sequence]
            token_ids[place] = token_id
            if inside in result.logprobs:
                logprobs[place] = result.logprobs[inside]
    return StepResult(token_ids, logprobs)


def by_lane(plan: StepPlan, result: StepResult) -> list[StepResult]:
    """The results of its lanes, of that of a merged step."""
    places = {sequence: place for place, sequence in enumerate(plan.sampling)}
    results = []
    for part in plan.lanes:
        inside = [places[sequence] for sequence in part.sampling]
        logprobs = {i: result.logprobs[place] for i, place in enumerate(inside) if place in result.logprobs}
        results.append(StepResult([result.token_ids[place] for place in inside], logprobs))
    return results
