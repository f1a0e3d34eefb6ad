"""Tokens from logits that the ranks of a lane have divided among them: no rank ever sees the others' logits.

Every rank is asked for the same rows at the same time, and answers with the same tokens, which are those that
`triptych.engine.sampler.sample` would take from the whole logits.

share       the tokens of this rank, and what it tells the others
ranking     the order of tokens as numbers, and the first of it
threshold   where the likeliest tokens end, by sums that all ranks make
filters     which tokens top_k, top_p and min_p keep
reports     log-probabilities
sampling    all of it
"""

from triptych.engine.divided.sampling import sample_divided
from triptych.engine.divided.share import VocabularyShare

__all__ = ["VocabularyShare", "sample_divided"]
