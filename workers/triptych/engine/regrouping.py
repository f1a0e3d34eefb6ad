"""Which answers share a step where the experts of all do not fit at once: pure (ExpertFlow, arXiv:2410.17954).

An answer is taken to need the experts that its last token took; three quarters of them are right. Answers that need
the same are put into groups whose experts fit what the layers keep, and the groups take turns of a few steps: the
experts of a group are read when its turn comes, and not at each step of it.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Needs = npt.NDArray[np.uint64]
"""[.., layer, word], a set of experts of each layer: expert e is bit e % 64 of word e // 64."""

_WORD = 64


@dataclass(frozen=True, slots=True)
class Round:
    """Turns of all groups, one after the other.

    Attributes:
        groups: Indices of the answers in each.
        steps: Of each turn.
    """

    groups: tuple[tuple[int, ...], ...]
    steps: int


@dataclass(frozen=True, slots=True)
class Terms:
    """What groups are made under.

    Attributes:
        room: By layer: experts that it keeps.
        bound: Steps in a row that an answer may be left out of.
        step: What a further step costs: experts that could be read in its time.
    """

    room: tuple[int, ...]
    bound: int
    step: float


def needs_of(ids: npt.NDArray[np.int32], experts: int) -> Needs:
    """The sets [T, L, W] of the experts ids [L, T, K] that rows took, of `experts` per layer."""
    taken = ids.transpose(2, 1, 0).astype(np.uint64, order="C")
    bits = np.uint64(1) << (taken & np.uint64(_WORD - 1))
    if experts <= _WORD:
        words = [bits]
    else:
        word = taken // np.uint64(_WORD)
        words = [np.where(word == np.uint64(w), bits, np.uint64(0)) for w in range(-(-experts // _WORD))]
    return np.stack([np.bitwise_or.reduce(one) for one in words], axis=-1)


def missing(needs: Needs, room: npt.NDArray[np.int64]) -> int:
    """Experts of sets [L, W] beyond what the layers keep: so many are read in each step that needs all of them."""
    return int(np.maximum(_counts(needs) - room, 0).sum())


def round_of(needs: Needs, waited: npt.NDArray[np.int64], terms: Terms) -> Round | None:
    """The next round; None where it reads less, or is done sooner, when everybody goes into every step.

    Args:
        needs: [N, L, W], of each answer.
        waited: [N], steps that each has just been left out of; the longest begin.
        terms: See there.
    """
    room = np.array(terms.room)
    everybody = missing(np.bitwise_or.reduce(needs), room)
    if not everybody:
        return None
    groups = _groups(needs, waited, room, terms.bound + 1)
    if groups is None:
        return None
    steps = max(1, terms.bound // (len(groups) - 1))
    unions = np.stack([np.bitwise_or.reduce(needs[group]) for group in groups])
    begun = int(_counts(unions & ~np.roll(unions, 1, axis=0)).sum())
    reads = begun + (steps - 1) * missing(unions, room)
    if reads + (len(groups) - 1) * steps * terms.step >= steps * everybody:
        return None
    return Round(tuple(tuple(group.tolist()) for group in groups), steps)


def _groups(
    needs: Needs, waited: npt.NDArray[np.int64], room: npt.NDArray[np.int64], most: int
) -> list[npt.NDArray[np.intp]] | None:
    """Around who has waited longest, those that add the least to it, as long as all of them fit.

    Whoever does not fit alone is alone. None where that makes one group, or more than `most`.
    """
    groups: list[npt.NDArray[np.intp]] = []
    left = np.argsort(-waited, kind="stable")
    while left.size:
        if len(groups) == most:
            return None
        added = _counts(needs[left] & ~needs[left[0]]).sum(axis=1)
        near = np.argsort(added, kind="stable")
        fits = (_counts(np.bitwise_or.accumulate(needs[left[near]])) <= room).all(axis=1)
        taken = near[: max(1, int(fits.sum()))]
        groups.append(left[taken])
        left = np.delete(left, taken)
    return groups if len(groups) > 1 else None


def _counts(needs: Needs) -> npt.NDArray[np.int64]:
    """[.., L], how many experts each layer's set has."""
    counts: npt.NDArray[np.int64] = np.bitwise_count(needs).sum(axis=-1, dtype=np.int64)
    return counts
