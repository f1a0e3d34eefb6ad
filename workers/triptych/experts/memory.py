"""How often each expert is asked for, in this run and in those before it; written down now and then."""

from collections.abc import Sequence
from pathlib import Path

from triptych.experts.store import PackedStore
from triptych.experts.warm import WarmSet, read_warm, write_warm

_STEPS = 1000.0
"""That all runs before this one count for."""
_EVERY = 300.0
"""Seconds."""


class Memory:
    """Uses by layer and number in the packed file.

    Args:
        store: The packed file.
        experts: By layer: the numbers in it of those that are kept here.
        path: Where it was and is written; None where nothing is remembered.
        now: Seconds, of the clock that `due` is asked by.
    """

    def __init__(self, store: PackedStore, experts: Sequence[tuple[int, ...]], path: Path | None, now: float) -> None:
        self._store = store
        self._path = path
        self._written = now
        self._experts = list(experts)
        self._counted = [[0] * len(layer) for layer in experts]
        self._since = [0] * len(experts)
        earlier = None if path is None else read_warm(path, store)
        if earlier is None:
            earlier = WarmSet(tuple((0.0,) * layer.experts for layer in store.layers))
        self._uses = [[share * _STEPS for share in layer] for layer in earlier.uses]
        self._steps = [_STEPS if any(layer) else 0.0 for layer in earlier.uses]

    def add(self, layer: int, uses: Sequence[int], steps: int) -> None:
        """Uses of each local expert of a layer since its last `rebind`, of so many steps since the beginning."""
        for expert, use, counted in zip(self._experts[layer], uses, self._counted[layer], strict=True):
            self._uses[layer][expert] += use - counted
        self._counted[layer] = list(uses)
        self._steps[layer] += steps - self._since[layer]
        self._since[layer] = steps

    def rebind(self, layer: int, experts: tuple[int, ...]) -> None:
        """A layer has these experts from now on, and their uses are counted from 0."""
        self._experts[layer] = experts
        self._counted[layer] = [0] * len(experts)

    def shares(self, layer: int) -> list[float]:
        """Of how many steps each local expert was needed, in [0, 1]; zeros where nothing is known."""
        everybody = self._shares(layer)
        return [everybody[expert] for expert in self._experts[layer]]

    def due(self, now: float) -> bool:
        """Whether it should be written down again."""
        return self._path is not None and now - self._written > _EVERY

    def write(self, now: float) -> None:
        """Writes it down, if there is anything to say."""
        self._written = now
        if self._path is not None and any(self._steps):
            write_warm(self._path, self._store, WarmSet(tuple(map(self._shares, range(len(self._uses))))))

    def _shares(self, layer: int) -> tuple[float, ...]:
        steps = max(self._steps[layer], 1.0)
        return tuple(min(use / steps, 1.0) for use in self._uses[layer])
