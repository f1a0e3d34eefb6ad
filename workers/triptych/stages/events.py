"""Builds the events that a worker sends: pure."""

from collections.abc import Iterable
from typing import assert_never

from triptych.core.errors import TriptychError
from triptych.core.generation import FinishReason, OperationKey
from triptych.core.jobs import actions as do
from triptych.core.jobs.events import Sampled
from triptych.stage.v1 import stage_pb2 as pb
from triptych.wire.failed import failed_to_proto
from triptych.wire.generation import finish_reason_to_proto, logprobs_to_proto


def failed(key: pb.OperationKey, error: TriptychError) -> pb.ConnectResponse:
    """The operation cannot go on."""
    return pb.ConnectResponse(failed=failed_to_proto(key, error))


def freed(key: pb.OperationKey) -> pb.ConnectResponse:
    """Nothing is held any more."""
    return pb.ConnectResponse(freed=pb.Freed(key=key))


def reserved(key: OperationKey, ticket: pb.Ticket) -> pb.ConnectResponse:
    """Blocks are there to be written."""
    return pb.ConnectResponse(reserved=pb.Reserved(key=key_to_proto(key), ticket=ticket))


def answer(answer: do.PrefillDone | do.KvReady | do.Freed | do.Failed) -> pb.ConnectResponse:
    """What a router is told of one operation."""
    match answer:
        case do.PrefillDone(token, times):
            return _prefill_done(token, times)
        case do.KvReady(key, size, seconds):
            ready = pb.KvReady(key=key_to_proto(key), bytes=size, transfer_us=_microseconds(seconds))
            return pb.ConnectResponse(kv_ready=ready)
        case do.Freed(key):
            return freed(key_to_proto(key))
        case do.Failed(key, error):
            return failed(key_to_proto(key), error)
        case _:
            assert_never(answer)


def complete(key: pb.OperationKey, answered: int) -> pb.ConnectResponse:
    """The answer ends with the `answered` tokens that it has: there is room for no other."""
    reason = finish_reason_to_proto(FinishReason.LENGTH)
    return step_tokens([pb.TokenDelta(key=key, finish_reason=reason, first=answered)])


def step_tokens(deltas: Iterable[pb.TokenDelta]) -> pb.ConnectResponse:
    """All tokens of one step for one router."""
    return pb.ConnectResponse(step_tokens=pb.StepTokens(deltas=deltas))


def token_delta(sampled: Sampled, key: pb.OperationKey | None) -> pb.TokenDelta:
    """One sequence's token; inside PrefillDone without its key."""
    logprobs = sampled.token.logprobs
    return pb.TokenDelta(
        key=key,
        token_ids=[sampled.token.token_id],
        logprobs=logprobs_to_proto([logprobs] if logprobs else []),
        finish_reason=finish_reason_to_proto(sampled.finish_reason),
        first=sampled.position,
    )


def key_to_proto(key: OperationKey) -> pb.OperationKey:
    """The wire form of a key."""
    return pb.OperationKey(request_id=key.request_id, epoch=key.epoch)


def _prefill_done(token: Sampled, times: do.Times) -> pb.ConnectResponse:
    """The first token, and where its time went."""
    done = pb.PrefillDone(
        key=key_to_proto(token.key),
        token=token_delta(token, None),
        times=pb.StageTimes(
            queue_us=_microseconds(times.queue),
            input_us=_microseconds(times.input),
            compute_us=_microseconds(times.compute),
        ),
        cached_tokens=token.cached_tokens,
    )
    return pb.ConnectResponse(prefill_done=done)


def _microseconds(seconds: float) -> int:
    return round(seconds * 1e6)
