"""Worker events into events of the core; payloads and times are filed with the request on the way."""

from typing import assert_never

from triptych.core.generation import FinishReason, GeneratedToken
from triptych.core.request import events as ev
from triptych.router.texts import TextWork
from triptych.router.work import Work
from triptych.stage.v1 import stage_pb2 as pb
from triptych.wire.failed import failed_from_proto
from triptych.wire.generation import finish_reason_from_proto, logprobs_from_proto

KeyedMessage = (
    pb.EncodeDone | pb.Reserved | pb.PrefillDone | pb.Embedded | pb.KvReady | pb.Freed | pb.Failed | pb.TokenDelta
)


def keyed_messages(event: pb.ConnectResponse) -> list[KeyedMessage]:
    """The messages of an event that concern one request each."""
    match event.WhichOneof("event"):
        case "step_tokens":
            return list(event.step_tokens.deltas)
        case "encode_done":
            return [event.encode_done]
        case "reserved":
            return [event.reserved]
        case "prefill_done":
            return [event.prefill_done]
        case "embedded":
            return [event.embedded]
        case "kv_ready":
            return [event.kv_ready]
        case "freed":
            return [event.freed]
        case "failed":
            return [event.failed]
        case _:
            return []


def core_event(message: KeyedMessage, work: Work | TextWork, worker_id: str, now: float) -> ev.FromWorker:
    """What the message means for the request.

    Args:
        message: What the worker said.
        work: The request; keeps embedding handles, the ticket and what usage needs, of its current attempt only.
        worker_id: Who said it.
        now: Seconds on the router's clock.
    """
    epoch = message.key.epoch
    if epoch == work.entry.record.key.epoch:
        if isinstance(work, Work):
            _file(message, work, worker_id, now)
        elif isinstance(message, pb.Embedded):
            work.keep(message, worker_id, now)
    match message:
        case pb.TokenDelta():
            return _tokens(message, worker_id, epoch)
        case pb.EncodeDone():
            return ev.ImagesEncoded(worker_id, epoch, frozenset(handle.index for handle in message.handles))
        case pb.Reserved():
            return ev.BlocksReserved(worker_id, epoch)
        case pb.PrefillDone():
            return _tokens(message.token, worker_id, epoch)
        case pb.Embedded():  # an answer without a token, which ends with its prompt
            return ev.TokensArrived(worker_id, epoch, 0, (), FinishReason.STOP)
        case pb.KvReady():
            return ev.KvArrived(worker_id, epoch)
        case pb.Freed():
            return ev.HolderFreed(worker_id, epoch)
        case pb.Failed():
            return ev.StageFailed(worker_id, epoch, failed_from_proto(message))
        case unknown:
            assert_never(unknown)


def _file(message: KeyedMessage, work: Work, worker_id: str, now: float) -> None:
    match message:
        case pb.EncodeDone():
            work.timeline.encoded(worker_id, message.times, now)
            work.handles |= {handle.index: handle for handle in message.handles}
        case pb.Reserved():
            work.timeline.reserved(worker_id, now)
            work.ticket = message.ticket
        case pb.PrefillDone():
            work.timeline.prefilled(worker_id, message.times, now)
            if work.cached_tokens is None:  # of the first attempt: what a replay finds is the request's own
                work.cached_tokens = message.cached_tokens
        case pb.KvReady():
            work.timeline.transferred(worker_id, message.transfer_us, now)


def _tokens(delta: pb.TokenDelta, worker_id: str, epoch: int) -> ev.TokensArrived:
    logprobs = logprobs_from_proto(delta.logprobs) or (None,) * len(delta.token_ids)
    tokens = tuple(GeneratedToken(t, p) for t, p in zip(delta.token_ids, logprobs, strict=True))
    return ev.TokensArrived(worker_id, epoch, delta.first, tokens, finish_reason_from_proto(delta.finish_reason))
