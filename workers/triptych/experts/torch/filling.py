"""Slots that are being filled: what comes into them, what was in vain, what failed."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from triptych.core.errors import TriptychError
from triptych.experts.cache import ExpertCache, Load
from triptych.experts.torch.lane import Lane
from triptych.experts.torch.ledger import Ledger


@dataclass(frozen=True, slots=True)
class Failure:
    """An expert that a step asked for and that could not be read."""

    load: Load
    error: TriptychError


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """`nbytes` are read for it."""

    load: Load
    nbytes: int


class Filling:
    """Between the decisions of the cache and the lane that carries them out.

    Args:
        cache: Decides.
        lane: Fills.
        ledger: Counts.
    """

    def __init__(self, cache: ExpertCache, lane: Lane, ledger: Ledger) -> None:
        self._cache = cache
        self._lane = lane
        self._ledger = ledger
        self._under_way: dict[int, _UnderWay] = {}
        self._ahead: dict[int, _UnderWay] = {}
        """By slot: what is read in advance, or was, for a layer that has not come yet."""
        self._failures: list[Failure] = []

    def start(self, load: Load, number: int, nbytes: int, *, rounded: bool) -> None:
        """An expert, by its number in the packed file, is to come: so many bytes if it is read, exact or rounded."""
        is_read = self._lane.begin(load, number, rounded=rounded)
        self._under_way[load.slot] = _UnderWay(load, nbytes if is_read else 0)
        if load.cause == "prefetch":
            self._ahead[load.slot] = self._under_way[load.slot]
            self._ledger.prefetched += 1

    def note_arrivals(self) -> None:
        """Tells the cache what has come; a failure is one only of what was asked for."""
        for arrived in self._lane.arrived():
            done = self._under_way.pop(arrived.slot)
            if arrived.error is None:
                self._cache.loaded(arrived.slot)
                continue
            self._ahead.pop(arrived.slot, None)
            self._cache.dropped(arrived.slot)
            self._ledger.failed_reads += 1
            if done.load.cause == "demand":
                self._failures.append(Failure(done.load, arrived.error))

    def reach(self, layer: int, wanted: Collection[int]) -> None:
        """A layer asks for experts: what was read in advance for it is used, or was in vain, or is given up."""
        for slot, ahead in [(slot, ahead) for slot, ahead in self._ahead.items() if ahead.load.layer == layer]:
            del self._ahead[slot]
            if ahead.load.expert in wanted:
                self._ledger.used += 1
            elif self._give_up(slot):
                self._ledger.prefetched -= 1
            else:
                self._ledger.wasted_bytes += ahead.nbytes
        for slot, each in self._under_way.items():
            if _is_wanted(each.load, layer, wanted):
                self._under_way[slot] = replace(each, load=replace(each.load, cause="demand"))
                self._lane.promote(slot)

    def make_room(self, layer: int, wanted: Collection[int]) -> None:
        """A small pool that is asked for many at once waits for slots into which others are being read."""
        others = [slot for slot, each in self._under_way.items() if not _is_wanted(each.load, layer, wanted)]
        if len(wanted) + len(set(others) | self._ahead.keys()) <= len(self._cache.slots):
            return
        for slot in others:
            if self._give_up(slot) and slot in self._ahead:
                del self._ahead[slot]
                self._ledger.prefetched -= 1
        self._lane.wait(slot for slot in others if slot in self._under_way)
        self.note_arrivals()

    def decline(self, slots: Sequence[int]) -> None:
        """These are not filled after all."""
        for slot in slots:
            del self._under_way[slot]
            self._cache.dropped(slot)

    def forget(self, layer: int, experts: Collection[int]) -> None:
        """These experts of a layer are no longer what they were."""
        self._lane.wait([slot for slot, each in self._under_way.items() if _is_wanted(each.load, layer, experts)])
        self.note_arrivals()
        for expert in experts:
            slot = self._cache.where(layer, expert)
            if slot is not None:
                self._ahead.pop(slot, None)
                self._cache.dropped(slot)

    def failures(self) -> list[Failure]:
        """Since the last call."""
        self.note_arrivals()
        failures, self._failures = self._failures, []
        return failures

    def _give_up(self, slot: int) -> bool:
        if slot not in self._under_way or not self._lane.drop(slot):
            return False
        del self._under_way[slot]
        self._cache.dropped(slot)
        return True


def _is_wanted(load: Load, layer: int, wanted: Collection[int]) -> bool:
    return load.layer == layer and load.expert in wanted
