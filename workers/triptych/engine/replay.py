"""Steps as recorded kernel calls, so that a step costs Python one call however many layers there are.

A recorded step is what the model's own code called, on the addresses that it used: the batch table and the workspace
stay where they are, the caches and weights too. Only the numbers in them change from one run to the next, so a replay
equals the call-by-call run bit for bit.
"""

import logging
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.kernels import paged_attention
from triptych.kernels.dispatch import REFERENCE, NoBackend
from triptych.kernels.native.team import Program, capture
from triptych.models.decoder import Decoder
from triptych.models.head import Head, Likeliest, Logits
from triptych.models.step import StepInput

logger = logging.getLogger(__name__)

_KEPT_CALLS = 40_000  # of recorded decode steps, up to 0.8 KB each; one of 30 layers has 250 to 700


@dataclass(frozen=True, slots=True, eq=False)
class RecordedStep:
    """Kernel calls, and where they leave their result.

    Attributes:
        program: The calls.
        head: What the last of them write; None when no row is scored.
    """

    program: Program
    head: Head | None


class StepRecorder:
    """Records steps of one decoder, and keeps those that will come again.

    Args:
        decoder: The model.
        kv: Its pool.
        sequences: Of the largest step.
    """

    def __init__(self, decoder: Decoder, kv: Tensor, sequences: int) -> None:
        self._decoder = decoder
        self._kv = kv
        self._usable = decoder.device.type == "cpu" and paged_attention.backend("cpu") != REFERENCE
        if decoder.mesh.parallelism.size > 1:
            logger.info(
                "steps of %d ranks run call by call: collectives are not recorded", decoder.mesh.parallelism.size
            )
            self._usable = False
        self._kept: OrderedDict[tuple[int, bool, bool], RecordedStep] = OrderedDict()
        self._outputs = HeadBuffers(sequences, decoder.vocabulary.size, decoder.device)
        self.recorded = 0

    def decode(self, step: StepInput, *, greedy: bool) -> RecordedStep | None:
        """A step of one row per sequence: recorded once for each number of sequences, with adapters and without."""
        if step.embeddings:
            return None
        key = (len(step.token_ids), greedy, step.adapters is not None)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        recorded = self.once(step, greedy=greedy)
        if recorded is not None:
            self._kept[key] = recorded
            self._forget()
        return recorded

    def _forget(self) -> None:
        """Those that have not come for longest, beyond the calls that are kept; never the one that came last."""
        calls = sum(len(step.program) for step in self._kept.values())
        while calls > _KEPT_CALLS and len(self._kept) > 1:
            calls -= len(self._kept.popitem(last=False)[1].program)

    def once(self, step: StepInput, *, greedy: bool) -> RecordedStep | None:
        """A step that will not come again; None when a part of it has no kernel, and it must run call by call."""
        if not self._usable or step.embeddings:
            return None
        head = self._outputs.head(len(step.logit_rows), greedy=greedy)
        try:
            with torch.inference_mode(), capture() as program:
                self._decoder.compute(step, self._kv, head)
        except NoBackend as error:
            block_size, head_dim = self._kv.shape[-2:]
            shape = f"heads of {head_dim}, blocks of {block_size}"
            logger.warning("steps run call by call, slower than replayed: %s (%s)", error, shape)
            self._usable = False
            return None
        self.recorded += 1
        return RecordedStep(program, head)


class HeadBuffers:
    """Results of a step, in memory that every step uses again; rows that no step has had cost nothing.

    Args:
        rows: Of the largest step.
        vocabulary: Tokens of the model.
        device: Where they are.
    """

    def __init__(self, rows: int, vocabulary: int, device: torch.device) -> None:
        self._logits = torch.empty(rows, vocabulary, device=device)
        self._token_ids = torch.empty(rows, dtype=torch.int64, device=device)
        self._values = torch.empty(rows, device=device)

    def head(self, rows: int, *, greedy: bool) -> Head | None:
        """Room for so many rows; None for none."""
        if not rows:
            return None
        if greedy:
            return Likeliest(self._token_ids[:rows], self._values[:rows])
        return Logits(self._logits[:rows])
