"""A finished step of the engine as `core.jobs` takes it: pure."""

from collections.abc import Mapping

from triptych.core.generation import GeneratedToken, OperationKey
from triptych.core.jobs.events import Computed, Sampled, Stepped
from triptych.engine.loop import StepOutcome
from triptych.engine.scheduler import Emitted
from triptych.engine.sequence import Goal, Sequence
from triptych.stages.operations import Payload


def stepped(outcome: StepOutcome, started: float, payloads: Mapping[OperationKey, Payload]) -> Stepped:
    """What a step that began at `started` (monotonic seconds) did for the operations that are not over."""

    def wanted(sequence: Sequence) -> bool:
        payload = payloads.get(sequence.key)
        return payload is not None and payload.sequence is sequence

    plan = outcome.plan
    prompts = [Computed(c.sequence.key, c.start + c.length) for c in plan.prompts if wanted(c.sequence)]
    # A last piece of one token is planned like an answer's.
    ends = (s for s in plan.decodes if s.goal is Goal.FIRST_TOKEN and wanted(s))
    prompts += (Computed(s.key, s.computed) for s in ends)
    tokens = [_sampled(emitted) for emitted in outcome.emitted if wanted(emitted.sequence)]
    return Stepped(started, tuple(prompts), tuple(tokens))


def _sampled(emitted: Emitted) -> Sampled:
    return Sampled(
        emitted.sequence.key,
        emitted.position,
        GeneratedToken(emitted.token_id, emitted.logprobs),
        emitted.finish_reason,
        emitted.sequence.cached_tokens or 0,
    )
