"""Which experts the rows of a step took, of what layers asked for."""

from dataclasses import dataclass, field

import torch

from triptych.experts.steerable import Asked
from triptych.experts.taken import TakenExperts


@dataclass
class Written:
    """A residency that has been asked for something."""

    asked: list[Asked] = field(default_factory=list)
    layers: int = 2
    quotas: tuple[int, ...] = (3, 2)
    on: bool = False

    def trace(self, on: bool) -> None:
        self.on = on

    def drain(self) -> list[Asked]:
        drained, self.asked = self.asked, []
        return drained

    def ask(self, *layers: list[list[int]]) -> None:
        self.asked += [Asked(number, torch.tensor(ids, dtype=torch.int32)) for number, ids in enumerate(layers)]


def test_the_last_run_of_a_step_counts() -> None:
    written = Written()
    taken = TakenExperts(written, 8)
    assert written.on
    assert (taken.room, taken.experts) == ((3, 2), 8)
    written.ask([[7, 7]], [[7, 7]])
    written.ask([[0, 1], [2, 3]], [[4, 5], [6, 7]])
    assert taken.last().tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    assert not written.asked


def test_layers_may_take_fewer() -> None:
    written = Written()
    taken = TakenExperts(written, 8)
    written.ask([[0, 1, 2], [2, 3, 1]], [[4, 5], [6, 7]])
    assert taken.last().tolist() == [[[0, 1, 2], [2, 3, 1]], [[4, 5, 5], [6, 7, 7]]]
