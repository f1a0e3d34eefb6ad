"""Rows of divided logits to tokens."""

import torch
from torch import Tensor

from triptych.engine.divided.filters import gathers, last_kept, searched, wanted, weights_of
from triptych.engine.divided.ranking import NOBODY, first, keys, logit_of, merged, ordered, split
from triptych.engine.divided.reports import Reports
from triptych.engine.divided.share import VocabularyShare
from triptych.engine.penalties import penalise
from triptych.engine.plan import NoFiniteRows, StepResult
from triptych.engine.sampler import SamplingRow, sample


def sample_divided(logits: Tensor, rows: list[SamplingRow], share: VocabularyShare) -> StepResult:
    """Chooses one token per row; every rank of the group calls this with the same rows, and gets the same result.

    Args:
        logits: [len(rows), V_local] float32, the scores of this rank's tokens, of which there are some; overwritten.
        rows: What to choose by, in the order of the logits.
        share: Which tokens they are the scores of.

    Raises:
        NoFiniteRows: on every rank, when the largest score of a row is not a finite number.
        RankLost: a rank is gone.
    """
    if not rows:
        return StepResult()
    if share.group.size == 1:
        _require_finite(logits.amax(dim=1))
        return sample(logits, rows)
    largest = ordered(logits).amax(dim=1)
    reports = Reports.of(logits, rows, share)
    for row, scores in zip(rows, logits, strict=True):
        _adjust(scores, row, share.start)
    count = max(wanted(row.params) for row in rows)
    gathered = share.gathered(torch.cat((largest[:, None], first(keys(logits, share.start), count)), dim=1))
    _require_finite(logit_of(gathered[:, :, 0].amax(dim=0)))
    best = merged(gathered[:, :, 1:], count)
    tokens = split(best[:, 0])[1]
    if drawn := [i for i, row in enumerate(rows) if not row.params.greedy]:
        tokens[drawn] = _drawn(logits[drawn], [rows[i] for i in drawn], best[drawn], share)
    return StepResult(tokens.tolist(), reports.told(tokens, share) if reports else {})


def _adjust(logits: Tensor, row: SamplingRow, start: int) -> None:
    """Penalties and barred tokens on one row [V_local]."""
    stop = start + len(logits)
    if row.seen is not None:
        penalise(logits, row.params, row.seen.within(start, stop))
    if barred := [token - start for token in row.barred if start <= token < stop]:
        logits[barred] = -torch.inf


def _require_finite(largest: Tensor) -> None:
    broken = (~largest.isfinite()).nonzero()[:, 0].tolist()
    if broken:
        raise NoFiniteRows(tuple(broken))


def _drawn(logits: Tensor, rows: list[SamplingRow], best: Tensor, share: VocabularyShare) -> Tensor:
    """[R] int64: the inverse of the cumulated weights of what the filters keep, at each row's number."""
    params = [row.params for row in rows]
    scores = split(best)[0]
    weights = weights_of(logits, scores[:, 0], params)
    shares = torch.tensor([[one.min_p] for one in params], dtype=torch.float64, device=logits.device)
    likely = weights >= shares
    if some := [i for i, one in enumerate(params) if gathers(one)]:
        candidates = weights_of(scores[some], scores[some, 0], [params[i] for i in some])
        candidates.masked_fill_(best[some] == NOBODY, 0.0)
        last = [last_kept(best[i], those, params[i]) for i, those in zip(some, candidates, strict=True)]
        weights[some] *= keys(logits[some], share.start) >= torch.stack(last)[:, None]
    others = [i for i, one in enumerate(params) if not gathers(one) and (one.top_k or one.top_p < 1.0)]
    if others:
        weights[others] = searched(logits[others], weights[others], [params[i] for i in others], share)
    numbers = torch.tensor([row.draw.u for row in rows], dtype=torch.float64, device=logits.device)
    return _at(weights * likely, numbers, share)


def _at(weights: Tensor, numbers: Tensor, share: VocabularyShare) -> Tensor:
    """Where the weights [R, V_local], cumulated over all ranks by token id, pass a share of their sum: token ids."""
    cumulative = weights.cumsum(dim=1)
    upto = share.gathered(cumulative[:, -1]).cumsum(dim=0)
    target = _below(numbers * upto[-1], upto[-1])
    owner = (upto > target).int().argmax(dim=0)
    rank = share.group.rank
    inside = _below(target - upto[rank - 1] if rank else target, cumulative[:, -1])
    own = torch.searchsorted(cumulative, inside[:, None], right=True)[:, 0] + share.start
    return share.summed(torch.where(owner == rank, own, 0))


def _below(target: Tensor, total: Tensor) -> Tensor:
    """However it was rounded, below the sum, so that it lies in a weight above 0."""
    return target.minimum(total.nextafter(torch.zeros_like(total)))
