"""One rank's part of every step: its heads, its widths, its tokens of the vocabulary, and the choice of the token."""

from typing import assert_never

import torch
from torch import Tensor

from triptych.engine.divided import VocabularyShare, sample_divided
from triptych.engine.plan import NoFiniteRows
from triptych.engine.ranks.messages import StepDone
from triptych.engine.ranks.reading import CommonReading
from triptych.engine.ranks.rows import Choice, Draws, Greedy
from triptych.engine.replay import HeadBuffers
from triptych.engine.sampler import SamplingRow
from triptych.models.decoder import Decoder
from triptych.models.head import Head, Likeliest, Logits
from triptych.models.step import StepInput


class RankComputer:
    """Computes steps call by call. All ranks of a lane give it the same steps, and get the same tokens.

    Args:
        decoder: This rank's share.
        kv: [layer, block, k|v, kv_head, token, dim], of its heads.
        rows: Of the largest step.
        sequences: Of the largest step.

    Attributes:
        mesh: The groups that the rank is in.
    """

    def __init__(self, decoder: Decoder, kv: Tensor, rows: int, sequences: int) -> None:
        decoder.reserve(rows)
        self.mesh = decoder.mesh
        self._decoder = decoder
        self._kv = kv
        self._share = VocabularyShare(decoder.mesh.attention, decoder.vocabulary.start, decoder.spec.vocab_size)
        self._outputs = HeadBuffers(sequences, decoder.local.vocab_size, decoder.device)
        residency = decoder.residency
        self._reading = None if residency is None else CommonReading(residency, decoder.mesh, decoder.device)

    @torch.inference_mode()
    def compute(self, step: StepInput, choice: Choice) -> StepDone:
        """Stores the KV of every row, and chooses a token for each scored one.

        Raises:
            RankLost: another rank is gone.
        """
        head = self._head(choice)
        self._decoder.compute(step, self._kv, head)
        if self._reading is not None:
            unread = self._reading.all_read(lambda: self._decoder.compute(step, self._kv, head))
            if unread:
                return StepDone(unread=unread)
        done = self._chosen(head, choice)
        if self._decoder.device.type == "cuda":  # where no row is scored, nothing has waited yet
            torch.cuda.current_stream(self._decoder.device).synchronize()
        self.mesh.check()
        return done

    def _head(self, choice: Choice) -> Head | None:
        match choice:
            case Greedy(rows):
                return self._outputs.head(rows, greedy=True)
            case Draws(rows):
                return self._outputs.head(len(rows), greedy=False)
            case _:
                assert_never(choice)

    def _chosen(self, head: Head | None, choice: Choice) -> StepDone:
        match choice:
            case Greedy():
                return StepDone() if head is None else _likeliest(head)
            case Draws(rows):
                assert isinstance(head, Logits)
                return self._drawn(head.values, rows)
            case _:
                assert_never(choice)

    def _drawn(self, logits: Tensor, rows: tuple[SamplingRow, ...]) -> StepDone:
        try:
            result = sample_divided(logits, list(rows), self._share)
        except NoFiniteRows as error:
            return StepDone(broken=error.places)
        return StepDone(tuple(result.token_ids), result.logprobs)


def _likeliest(head: Head) -> StepDone:
    assert isinstance(head, Likeliest)
    broken = (~head.values.isfinite()).nonzero().flatten().tolist()
    return StepDone(broken=tuple(broken)) if broken else StepDone(tuple(head.token_ids.tolist()))
