"""The prefill side of a decoder worker: embeddings in, prompt computed, KV pushed out chunk by chunk."""

from triptych.core.errors import TriptychError
from triptych.engine.blocks import blocks_for
from triptych.engine.sequence import Media, Sequence
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.desk import JobDesk
from triptych.stages.jobs import Job, Outgoing
from triptych.stages.messages import Command


class Prefills:
    """Starts prompts and sends their KV away.

    Args:
        desk: Where jobs are opened.
    """

    def __init__(self, desk: JobDesk) -> None:
        self._desk = desk

    def start(self, command: Command, prefill: pb.Prefill) -> None:
        """A prompt to compute, once its embeddings are here."""
        role = Outgoing(prefill.ticket) if prefill.HasField("ticket") else None
        job = self._desk.open(command, prefill, list(prefill.token_ids), role)
        if job is None:
            return
        job.awaits_first_token = True
        if job.media:
            self.pull(job)
        else:
            self._desk.scheduler.add(job.sequence)

    def pull(self, job: Job) -> None:
        """Has the job's embeddings fetched, unless they are on their way."""
        if not job.pulling:
            job.pulling = True
            self._desk.movers.pull(job.key, job.media)

    def pulled(self, job: Job, media: tuple[Media, ...] | TriptychError, seconds: float) -> None:
        """Embeddings are here: for a prompt that waits, or for one that was preempted after its transfer."""
        job.pulling = False
        job.times.input_seconds += seconds
        if not job.active:
            return
        if isinstance(media, TriptychError):
            self._desk.fail(job, media)
        elif job.key in self._desk.scheduler:
            self._desk.scheduler.supply(job.key, media)
        else:
            job.sequence.media = media
            self._desk.scheduler.add(job.sequence)

    def push_blocks(self, job: Job, outgoing: Outgoing, sequence: Sequence) -> None:
        """Sends the blocks that the last chunk has filled; the last one of the prompt goes as it is."""
        last = sequence.computed >= sequence.prompt_length
        size = self._desk.scheduler.block_size
        filled = blocks_for(sequence.prompt_length, size) if last else sequence.computed // size
        blocks = sequence.blocks[outgoing.blocks_sent : filled]
        if blocks:
            self._desk.movers.push(job.key, outgoing.ticket, outgoing.blocks_sent, blocks, last=last)
            outgoing.blocks_sent = filled
