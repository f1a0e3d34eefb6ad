"""Builds the commands for stage workers from a call: pure."""

from triptych.router.call import Call
from triptych.stage.v1 import stage_pb2 as pb
from triptych.wire.sampling import sampling_to_proto


def key(call: Call) -> pb.OperationKey:
    """The identity of the call's current attempt."""
    return pb.OperationKey(request_id=call.record.key.request_id, epoch=call.record.key.epoch)


def encode(call: Call, indices: tuple[int, ...], timeout_ms: int) -> pb.ConnectRequest:
    """Each shard is a message of its own, so that no worker can meet another one's images."""
    chosen = [(i, call.request.images[i]) for i in indices]
    images = [
        pb.EncodeImage(index=i, content_hash=image.content_hash, data=image.data, field=image.field)
        for i, image in chosen
    ]
    return pb.ConnectRequest(encode=pb.Encode(key=key(call), images=images, timeout_ms=timeout_ms))


def reserve(call: Call, timeout_ms: int) -> pb.ConnectRequest:
    """Blocks for the prompt on the decode worker."""
    return pb.ConnectRequest(
        reserve=pb.Reserve(
            key=key(call),
            prompt_token_ids=call.request.prompt.token_ids,
            sampling=sampling_to_proto(call.request.sampling),
            media=_media(call),
            timeout_ms=timeout_ms,
        )
    )


def prefill(call: Call, timeout_ms: int, *, with_ticket: bool) -> pb.ConnectRequest:
    """The prompt for the prefill worker, or for the one worker of a colocated request."""
    return pb.ConnectRequest(
        prefill=pb.Prefill(
            key=key(call),
            token_ids=call.request.prompt.token_ids,
            media=_media(call),
            sampling=sampling_to_proto(call.request.sampling),
            ticket=call.ticket if with_ticket else None,
            timeout_ms=timeout_ms,
        )
    )


def decode(call: Call) -> pb.ConnectRequest:
    """What has been emitted so far, for the decode worker to go on from."""
    return pb.ConnectRequest(decode=pb.Decode(key=key(call), emitted_token_ids=call.emitted))


def free(call: Call) -> pb.ConnectRequest:
    """The one Free of a holder."""
    return pb.ConnectRequest(free=pb.Free(key=key(call)))


def _media(call: Call) -> list[pb.MediaSpan]:
    return [
        pb.MediaSpan(start=span.start, handle=call.handles[i])
        for i, span in enumerate(call.request.prompt.image_spans)
    ]
