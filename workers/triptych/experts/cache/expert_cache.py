"""Which expert is in which slot: the decisions alone, without memory, threads or files.

A layer keeps as many experts as it has quota, those of the highest scores. All other slots are spare: they take what
is read, and whoever is not worth keeping stays in them until they are needed again, oldest first. A layer may ask for
more than they hold, as for a long prompt:

* In waves (`wave`) these experts pass through the spare slots in turns, and whom layers keep is not touched.
* Where all have to be there at once (`ensure`) they take slots that layers keep: those of the lowest scores of the
  layer that comes again last, then of the one before it.

`triptych.kernels.native.residency` decides the same in C++, in waves; traces are replayed by this one.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from triptych.experts.cache.demand import Demand, Ensured
from triptych.experts.cache.scores import Scores
from triptych.experts.cache.slots import Cause, Empty, Load, Loading, Ready, Slot


class ExpertCache:
    """The slots of one rank.

    Args:
        slots: N, at least the experts of a layer.
        quotas: Experts that each layer keeps; together at most N less the experts of a layer.
        scores: Of each layer's experts.
    """

    def __init__(self, slots: int, quotas: Sequence[int], scores: Sequence[Scores]) -> None:
        self.slots: list[Slot] = [Empty()] * slots
        self.quotas = tuple(quotas)
        self.scores = tuple(scores)
        self.kept: list[dict[int, int]] = [{} for _ in quotas]
        """By layer: the slots of the experts that it keeps."""
        self._where: dict[tuple[int, int], int] = {}
        self._spare: OrderedDict[int, None] = OrderedDict.fromkeys(range(slots))
        self._pinned: set[int] = set()
        self.demand = Demand(0, (), set())
        """Of the layer that a step has reached."""
        self._awaited: dict[int, set[int]] = {}
        """By layer: slots of what was read in advance for it, which nobody may take before."""

    def ensure(self, layer: int, experts: Sequence[int]) -> Ensured:
        """A step is at a layer, and needs these experts, in ascending order. What earlier layers needed may go."""
        awaited = self._awaited.pop(layer, set())
        self._pinned.clear()
        self.scores[layer].touch(experts)
        there = {expert: slot for expert in experts if (slot := self.where(layer, expert)) is not None}
        self._pinned.update(there.values())
        missing = [expert for expert in experts if expert not in there]
        loads = tuple(self._load(layer, expert, "demand", self._room(layer)) for expert in missing)
        slots = self._compute(layer, experts)
        covered = len(awaited & set(there.values()))
        return Ensured(slots, loads, len(there) - covered, covered)

    def reach(self, layer: int, experts: Sequence[int]) -> None:
        """A step is at a layer, and will go through these experts, in ascending order, in waves."""
        self.scores[layer].touch(experts)
        self.demand = Demand(layer, tuple(experts), self._awaited.pop(layer, set()))

    def wave(self, make_room: Callable[[], None]) -> Ensured:
        """The experts that the step goes on with: all that are left, if the spare slots hold them.

        Else those in half of the spare slots, while the next ones are read into the other half.

        Args:
            make_room: Called while spare slots wait for others, or are being read into: frees one, or waits for one.
        """
        demand = self.demand
        self._pinned = self._taken()
        left = [self._slot_of(expert) for expert in demand.experts[demand.taken :]]
        for slot in reversed(left):  # whoever comes last is the first to be read again, if it must be
            if slot is not None and slot in self._spare:
                self._spare.move_to_end(slot)
        loads, hits, covered = [], 0, 0
        for expert in demand.experts[demand.taken :]:
            slot = self._slot_of(expert)
            if slot is not None:
                self._pinned.add(slot)
                covered, hits = covered + (slot in demand.awaited), hits + (slot not in demand.awaited)
            elif (free := self._spare_room(make_room)) is not None:
                demand.awaited.discard(free)
                loads.append(self._load(demand.layer, expert, "demand", free))
            else:
                break
            demand.taken += 1
        end = self._half()
        now, demand.next = demand.experts[demand.next : end], end
        return Ensured(self._compute(demand.layer, now), tuple(loads), hits, covered)

    def release_one(self) -> bool:
        """The first slot that waits for a layer to come waits no longer; whether there is one."""
        awaited = {slot: slots for slots in self._awaited.values() for slot in slots}
        for slot in sorted(awaited):
            if isinstance(self.slots[slot], Ready) and slot not in self._pinned:
                awaited[slot].discard(slot)
                return True
        return False

    def prefetch(self, layer: int, experts: Sequence[int], most: int) -> tuple[Load, ...]:
        """Slots for experts that a layer to come may need, likeliest first, while fewer than `most` are awaited.

        Those of them that are there do not make room for others.
        """
        if not most:
            return ()
        awaited = self._awaited.setdefault(layer, set())
        there = {slot for expert in experts if (slot := self.where(layer, expert)) is not None}
        for slot in sorted(there & self._spare.keys()):
            self._spare.move_to_end(slot)
        loads: list[Load] = []
        for expert in experts:
            if (layer, expert) in self._where:
                continue
            slot = self._oldest()
            if slot is None or slot in there or sum(map(len, self._awaited.values())) >= most:
                break
            loads.append(self._load(layer, expert, "prefetch", slot))
            awaited.add(slot)
        return tuple(loads)

    def warm(self, layer: int, expert: int) -> Load | None:
        """A slot that the layer keeps, before the first step; None when its quota is full or it has it."""
        if len(self.kept[layer]) >= self.quotas[layer] or (layer, expert) in self._where:
            return None
        slot = self._oldest()
        if slot is None:
            return None
        load = self._load(layer, expert, "warm", slot)
        self._keep(layer, expert, slot)
        return load

    def loaded(self, slot: int) -> None:
        """What a slot was to hold is there."""
        match self.slots[slot]:
            case Loading(layer, expert, _):
                self.slots[slot] = Ready(layer, expert)

    def dropped(self, slot: int) -> None:
        """What a slot was to hold is not read after all, or could not be; it is the next to be taken."""
        self._forget(slot)
        for kept in self.kept:
            for expert in [expert for expert, place in kept.items() if place == slot]:
                del kept[expert]
        self._pinned.discard(slot)
        for awaited in self._awaited.values():
            awaited.discard(slot)
        self._spare[slot] = None
        self._spare.move_to_end(slot, last=False)

    def worth_keeping(self, layer: int, expert: int) -> bool:
        """Whether its layer keeps an expert, or would if it were asked for now."""
        if expert in self.kept[layer] or len(self.kept[layer]) < self.quotas[layer]:
            return True
        least, score = self._least(layer), self.scores[layer].of
        return least is not None and score(expert) > score(least[1])

    def where(self, layer: int, expert: int) -> int | None:
        """The slot of an expert."""
        return self._where.get((layer, expert))

    def _slot_of(self, expert: int) -> int | None:
        return self.where(self.demand.layer, expert)

    def _taken(self) -> set[int]:
        """Slots of whom the step goes on with; who was dropped between two waves is taken again, and all behind."""
        demand, found = self.demand, set[int]()
        for place in range(demand.next, demand.taken):
            slot = self._slot_of(demand.experts[place])
            if slot is None:
                demand.taken = place
                break
            found.add(slot)
        return found

    def _half(self) -> int:
        """Place of the first expert that the step does not go on with."""
        demand = self.demand
        if demand.taken == len(demand.experts):
            return demand.taken
        passing, place = max(len(self._spare) // 2, 1), demand.next
        while passing and place < demand.taken:
            passing -= self._slot_of(demand.experts[place]) in self._spare
            place += 1
        return place

    def _compute(self, layer: int, experts: Sequence[int]) -> tuple[int, ...]:
        """Slots of experts that the step computes with now; their layer may keep them from now on."""
        slots = tuple(self._where[layer, expert] for expert in experts)
        for slot in slots:
            self._use(slot)
        for expert, slot in zip(experts, slots, strict=True):
            self._settle(layer, expert, slot)
        return slots

    def _spare_room(self, make_room: Callable[[], None]) -> int | None:
        """The oldest spare slot; None when the step needs all of them."""
        while (slot := self._oldest()) is None:
            if self._spare.keys() <= self._pinned:
                return None
            make_room()
        return slot

    def _load(self, layer: int, expert: int, cause: Cause, slot: int) -> Load:
        self._forget(slot)
        self.slots[slot] = Loading(layer, expert, cause)
        self._where[layer, expert] = slot
        self._spare[slot] = None
        self._spare.move_to_end(slot)
        if cause == "demand":
            self._pinned.add(slot)
        return Load(slot, layer, expert, cause)

    def _oldest(self) -> int | None:
        """The oldest spare slot that nobody needs."""
        return next(filter(self._free, self._spare), None)

    def _room(self, layer: int) -> int:
        """The oldest spare slot that nobody needs; else that of the least of the layers that come again last."""
        if (spare := self._oldest()) is not None:
            return spare
        count = len(self.quotas)
        for back in range(1, count + 1):
            victim = self._least((layer - back) % count, self._free)
            if victim is not None:
                owner, expert, slot = victim
                del self.kept[owner][expert]
                return slot
        raise AssertionError("fewer slots than experts that a layer asks for at once")

    def _free(self, slot: int) -> bool:
        if slot in self._pinned or isinstance(self.slots[slot], Loading):
            return False
        return not any(slot in awaited for awaited in self._awaited.values())

    def _least(self, layer: int, allowed: Callable[[int], bool] = lambda slot: True) -> tuple[int, int, int] | None:
        score = self.scores[layer].of
        found = [(score(expert), expert, slot) for expert, slot in self.kept[layer].items() if allowed(slot)]
        return (layer, *min(found)[1:]) if found else None

    def _settle(self, layer: int, expert: int, slot: int) -> None:
        """Keeps an expert that is worth more than the least that is kept; else it is the newest of the spare."""
        if expert in self.kept[layer] or not self.quotas[layer]:
            if slot in self._spare:
                self._spare.move_to_end(slot)
            return
        if len(self.kept[layer]) < self.quotas[layer]:
            self._keep(layer, expert, slot)
            return
        least = self._least(layer)
        score = self.scores[layer].of
        if least is None or score(expert) <= score(least[1]):
            self._spare.move_to_end(slot)
            return
        del self.kept[layer][least[1]]
        self._spare[least[2]] = None
        self._keep(layer, expert, slot)

    def _keep(self, layer: int, expert: int, slot: int) -> None:
        self.kept[layer][expert] = slot
        self._spare.pop(slot, None)

    def _use(self, slot: int) -> None:
        match self.slots[slot]:
            case Loading(layer, expert, "prefetch"):
                self.slots[slot] = Loading(layer, expert, "demand")

    def _forget(self, slot: int) -> None:
        match self.slots[slot]:
            case Loading(layer, expert, _) | Ready(layer, expert):
                del self._where[layer, expert]
        self.slots[slot] = Empty()
