"""Worker events into events of the core; payloads and times are filed with the call on the way."""

from triptych.core import events as ev
from triptych.core.generation import GeneratedToken
from triptych.router.call import Call
from triptych.stage.v1 import stage_pb2 as pb
from triptych.wire.failed import failed_from_proto
from triptych.wire.generation import finish_reason_from_proto, logprobs_from_proto

KeyedMessage = pb.EncodeDone | pb.Reserved | pb.PrefillDone | pb.KvReady | pb.Freed | pb.Failed | pb.TokenDelta


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
        case "kv_ready":
            return [event.kv_ready]
        case "freed":
            return [event.freed]
        case "failed":
            return [event.failed]
        case _:
            return []


def core_event(message: KeyedMessage, call: Call, worker_id: str, now: float) -> ev.Event:
    """What the message means for the request.

    Args:
        message: What the worker said.
        call: The request; keeps embedding handles, the ticket and what usage needs.
        worker_id: Who said it.
        now: Seconds on the router's clock.
    """
    match message:
        case pb.TokenDelta():
            return _tokens(message)
        case pb.EncodeDone():
            call.timeline.encoded(worker_id, message.times, now)
            call.handles |= {handle.index: handle for handle in message.handles}
            return ev.ImagesEncoded(frozenset(handle.index for handle in message.handles))
        case pb.Reserved():
            call.timeline.reserved(worker_id, now)
            call.ticket = message.ticket
            return ev.BlocksReserved()
        case pb.PrefillDone():
            call.timeline.prefilled(worker_id, message.times, now)
            call.cached_tokens = message.cached_tokens
            return _tokens(message.token)
        case pb.KvReady():
            call.timeline.transferred(worker_id, message.transfer_us, now)
            return ev.KvArrived()
        case pb.Freed():
            return ev.HolderFreed(worker_id)
        case pb.Failed():
            return ev.StageFailed(worker_id, failed_from_proto(message))


def _tokens(delta: pb.TokenDelta) -> ev.TokensArrived:
    logprobs = logprobs_from_proto(delta.logprobs) or (None,) * len(delta.token_ids)
    tokens = tuple(GeneratedToken(t, p) for t, p in zip(delta.token_ids, logprobs, strict=True))
    return ev.TokensArrived(tokens, finish_reason_from_proto(delta.finish_reason))
