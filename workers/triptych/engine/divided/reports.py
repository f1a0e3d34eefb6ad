"""Log-probabilities of the model itself, before penalties and temperature, where the vocabulary is divided."""

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from triptych.core.generation import PositionLogprobs, TokenLogprob
from triptych.engine.divided.ranking import first, keys, merged, split
from triptych.engine.divided.share import VocabularyShare
from triptych.engine.sampler import SamplingRow


@dataclass(frozen=True, slots=True)
class Reports:
    """Of the rows that ask for some.

    Attributes:
        places: Of the rows among all.
        logits: [len(places), V_local], this rank's.
        normalisers: [len(places)] logarithms of the sums of exponentials over the whole vocabulary.
        tops: The likeliest tokens of each row.
    """

    places: list[int]
    logits: Tensor
    normalisers: Tensor
    tops: list[tuple[TokenLogprob, ...]]

    @classmethod
    def of(cls, logits: Tensor, rows: list[SamplingRow], share: VocabularyShare) -> Self | None:
        """Before anything changes the logits; None when no row asks."""
        counts = {i: row.params.logprobs for i, row in enumerate(rows) if row.params.logprobs is not None}
        if not counts:
            return None
        places, most = list(counts), min(max(counts.values()), share.size)
        chosen = logits[places]
        normalisers = share.gathered(chosen.logsumexp(dim=1)).logsumexp(dim=0)
        best = merged(share.gathered(first(keys(chosen, share.start), most)), most)
        values, ids = split(best)
        scores = (values - normalisers[:, None]).tolist()
        tops = [
            tuple(TokenLogprob(i, v) for i, v in zip(ids[row, :count].tolist(), scores[row], strict=False))
            for row, count in enumerate(counts.values())
        ]
        return cls(places, chosen, normalisers, tops)

    def told(self, tokens: Tensor, share: VocabularyShare) -> dict[int, PositionLogprobs]:
        """By place; `tokens` [R] int64 are the chosen ones of all rows."""
        chosen = tokens[self.places]
        here = (chosen - share.start).clamp(0, self.logits.shape[1] - 1)
        own = self.logits.gather(1, here[:, None])[:, 0]
        logprobs = share.of_owner(own, chosen, self.logits) - self.normalisers
        told = zip(logprobs.tolist(), self.tops, strict=True)
        return {place: PositionLogprobs(*one) for place, one in zip(self.places, told, strict=True)}
