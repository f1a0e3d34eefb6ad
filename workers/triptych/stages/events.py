"""Builds the events that a decoder worker sends: pure."""

from collections.abc import Iterable

from triptych.core.errors import TriptychError
from triptych.engine.scheduler import Emitted
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.jobs import Job
from triptych.wire.failed import failed_to_proto
from triptych.wire.generation import finish_reason_to_proto, logprobs_to_proto


def failed(key: pb.OperationKey, error: TriptychError) -> pb.ConnectResponse:
    """The operation cannot go on."""
    return pb.ConnectResponse(failed=failed_to_proto(key, error))


def freed(key: pb.OperationKey) -> pb.ConnectResponse:
    """Nothing is held any more."""
    return pb.ConnectResponse(freed=pb.Freed(key=key))


def prefill_done(job: Job, emitted: Emitted, now: float) -> pb.ConnectResponse:
    """The first token, and where its time went."""
    started = job.times.first_step or now
    waited = started - job.times.received - job.times.input_seconds
    times = pb.StageTimes(
        queue_us=round(waited * 1e6),
        input_us=round(job.times.input_seconds * 1e6),
        compute_us=round((now - started) * 1e6),
    )
    token = token_delta(emitted)
    cached = emitted.sequence.cached_tokens or 0
    return pb.ConnectResponse(
        prefill_done=pb.PrefillDone(key=job.proto_key(), token=token, times=times, cached_tokens=cached)
    )


def step_tokens(deltas: Iterable[pb.TokenDelta]) -> pb.ConnectResponse:
    """All tokens of one step for one router."""
    return pb.ConnectResponse(step_tokens=pb.StepTokens(deltas=deltas))


def token_delta(emitted: Emitted, key: pb.OperationKey | None = None) -> pb.TokenDelta:
    """One sequence's token."""
    return pb.TokenDelta(
        key=key,
        token_ids=[emitted.token_id],
        logprobs=logprobs_to_proto([emitted.logprobs] if emitted.logprobs else []),
        finish_reason=finish_reason_to_proto(emitted.finish_reason),
    )
