"""Whose turn it is among answers that need different experts."""

from collections import deque
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from triptych.engine.plan import StepPlan
from triptych.engine.regrouping import Needs, Terms, missing, needs_of, round_of
from triptych.engine.sequence import Sequence

_BOUND = 4
_STEP = 2.5
"""Experts per layer that are read from a disk in the time of a step of one row."""


class Turns:
    """Leaves answers out of a step, so that the experts of the others fit.

    Nobody is left out of more than `bound` steps in a row, nor of `bound` more than anybody else.

    Args:
        room: By layer: experts that it keeps from one step to the next.
        experts: Of the largest layer.
        bound: See above.
        step: What a further step costs, in experts that are read per layer.
    """

    def __init__(self, room: tuple[int, ...], experts: int, *, bound: int = _BOUND, step: float = _STEP) -> None:
        self._terms = Terms(room, bound, step * len(room))
        self._room = np.array(room)
        self._experts = experts
        self._needs: dict[Sequence, Needs] = {}
        self._waited: dict[Sequence, int] = {}  # steps in a row
        self._missed: dict[Sequence, int] = {}  # all steps; who comes is taken to have missed the least
        self._groups: deque[set[Sequence]] = deque()
        self._placed: set[Sequence] = set()
        self._steps = self._done = self._together = 0

    def choose(self, answers: tuple[Sequence, ...]) -> tuple[Sequence, ...]:
        """Those of the answers that go into the next step, in their order."""
        if self._together:  # a round does not pay: looked at again after as many steps as one would take
            self._together -= 1
            return answers
        known = [s for s in answers if s in self._needs]
        needs = np.stack([self._needs[s] for s in known]) if known else None
        if needs is None or not missing(np.bitwise_or.reduce(needs), self._room):
            self._groups.clear()
            return answers
        if not self._go_on(answers):
            self._begin(known, needs)
            if not self._groups:
                return answers
        self._done += 1
        least = min([self._missed[s] for s in answers if s in self._missed], default=0)
        chosen = tuple([s for s in answers if self._goes(s, least)])
        for answer in answers:
            self._missed.setdefault(answer, least)
        for left_out in set(answers).difference(chosen):
            self._waited[left_out] = self._waited.get(left_out, 0) + 1
            self._missed[left_out] += 1
        return chosen

    def learn(self, plan: StepPlan, routes: npt.NDArray[np.int32], running: Collection[Sequence]) -> None:
        """A step is done.

        Args:
            plan: It.
            routes: [L, rows, K], the experts that each of its rows took.
            running: Who may go on; of the others nothing is kept.
        """
        for sequence in plan.sequences:
            self._waited.pop(sequence, None)
        rows, end = list(range(len(plan.decodes))), len(plan.decodes)
        for chunk in plan.prompts:
            end += chunk.length
            if chunk.samples:
                rows.append(end - 1)
        for sequence, needs in zip(plan.sampling, needs_of(routes[:, rows], self._experts), strict=True):
            if sequence in running:
                self._needs[sequence] = needs

    def forget(self, sequence: Sequence) -> None:
        """It has ended."""
        self._needs.pop(sequence, None)
        self._waited.pop(sequence, None)
        self._missed.pop(sequence, None)
        self._placed.discard(sequence)
        for group in self._groups:
            group.discard(sequence)

    def _go_on(self, answers: Collection[Sequence]) -> bool:
        """Whether the round has a group left whose turn it is, or comes to be."""
        while self._groups:
            if self._done < self._steps and not self._groups[0].isdisjoint(answers):
                return True
            self._groups.popleft()
            self._done = 0
        return False

    def _begin(self, known: list[Sequence], needs: Needs) -> None:
        waited = np.array([self._waited.get(s, 0) for s in known])
        new = round_of(needs, waited, self._terms)
        if new is None:
            self._together = self._terms.bound
            return
        self._groups.extend({known[index] for index in group} for group in new.groups)
        self._placed = set(known)
        self._steps, self._done = new.steps, 0

    def _goes(self, sequence: Sequence, least: int) -> bool:
        """Its turn, or it came after the round began, or it must not wait any longer."""
        waited, behind = self._waited.get(sequence, 0), self._missed.get(sequence, least) - least
        return sequence in self._groups[0] or sequence not in self._placed or max(waited, behind) >= self._terms.bound
