"""Builds the commands for stage workers: pure."""

from itertools import chain

from triptych.core.errors import DataLoss
from triptych.core.prompt import ImagePart, ImageSpan, VideoPart
from triptych.core.request import actions as do
from triptych.router.call import CheckedMedia
from triptych.router.texts import TextWork
from triptych.router.work import Work
from triptych.stage.v1 import stage_pb2 as pb
from triptych.wire.sampling import sampling_to_proto


def encode(work: Work, action: do.SendEncode, timeout_ms: int) -> pb.ConnectRequest:
    """Each shard is a message of its own, so that no worker can meet another one's images.

    Whether the damage that ended the attempt before was to KV or to which embedding is not known: all are made anew.
    """
    chosen = [(i, work.request.images[i]) for i in action.indices]
    images = [_image(i, image) for i, image in chosen]
    anew = isinstance(work.entry.record.past.error, DataLoss)
    key = _key(work, action.epoch)
    return pb.ConnectRequest(encode=pb.Encode(key=key, images=images, timeout_ms=timeout_ms, anew=anew))


def reserve(work: Work, action: do.SendReserve, timeout_ms: int) -> pb.ConnectRequest:
    """Blocks for the prompt and the answer so far on the decode worker."""
    return pb.ConnectRequest(
        reserve=pb.Reserve(
            key=_key(work, action.epoch),
            prompt_token_ids=work.request.prompt.token_ids,
            emitted_token_ids=work.entry.token_ids(action.emitted),
            sampling=sampling_to_proto(work.request.sampling),
            adapter=work.request.adapter,
            media=_media(work),
            timeout_ms=timeout_ms,
        )
    )


def prefill(work: Work, action: do.SendPrefill, timeout_ms: int) -> pb.ConnectRequest:
    """The prompt and the answer so far for the prefill worker, or for the one worker of a colocated request."""
    return pb.ConnectRequest(
        prefill=pb.Prefill(
            key=_key(work, action.epoch),
            token_ids=work.request.prompt.token_ids,
            emitted_token_ids=work.entry.token_ids(action.emitted),
            media=_media(work),
            sampling=sampling_to_proto(work.request.sampling),
            adapter=work.request.adapter,
            ticket=work.ticket if action.with_ticket else None,
            timeout_ms=timeout_ms,
        )
    )


def decode(work: Work, action: do.SendDecode) -> pb.ConnectRequest:
    """The answer so far, for the decode worker to go on from."""
    emitted = work.entry.token_ids(action.emitted)
    return pb.ConnectRequest(decode=pb.Decode(key=_key(work, action.epoch), emitted_token_ids=emitted))


def embed(work: TextWork, action: do.SendPrefill, timeout_ms: int) -> pb.ConnectRequest:
    """All texts of a request for the worker that makes their vectors."""
    texts = work.request.texts
    return pb.ConnectRequest(
        embed=pb.Embed(
            key=_key(work, action.epoch),
            token_ids=chain.from_iterable(texts),
            lengths=map(len, texts),
            dimensions=work.request.dimensions,
            timeout_ms=timeout_ms,
        )
    )


def free(work: Work | TextWork, action: do.SendFree) -> pb.ConnectRequest:
    """The one Free of a holder."""
    return pb.ConnectRequest(free=pb.Free(key=_key(work, action.epoch)))


def _key(work: Work | TextWork, epoch: int) -> pb.OperationKey:
    return pb.OperationKey(request_id=work.entry.request_id, epoch=epoch)


def _image(index: int, image: CheckedMedia) -> pb.EncodeImage:
    wanted = pb.EncodeImage(index=index, content_hash=image.content_hash, field=image.field, rows=image.layout.rows)
    match image.part:
        case ImagePart(data):
            wanted.data = data
        case VideoPart(frames, fps):
            wanted.frames.extend(frames)
            wanted.fps = fps
    return wanted


def _media(work: Work) -> list[pb.MediaSpan]:
    return [_span(span, work.handles[span.image]) for span in work.request.prompt.image_spans]


def _span(span: ImageSpan, handle: pb.EmbeddingHandle) -> pb.MediaSpan:
    found = pb.MediaSpan(start=span.start, handle=handle, row=span.row, length=span.length)
    if grid := span.grid:
        found.grid.CopyFrom(pb.Grid(time=grid.time, height=grid.height, width=grid.width, interval=grid.interval))
    return found
