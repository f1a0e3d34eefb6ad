"""The step loop: plan, launch, prepare the next step while this one computes, wait, commit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from triptych.engine.balance import Balancer
from triptych.engine.lanes import Lanes
from triptych.engine.plan import NoFiniteScore, StepPlan, StepResult
from triptych.engine.scheduler import Emitted, Scheduler
from triptych.engine.sequence import Sequence


class Pending(Protocol):
    """A step that computes."""

    def wait(self) -> StepResult:
        """Its tokens, as soon as they are there."""


class Runner(Protocol):
    """What computes steps, one at a time."""

    @property
    def balancer(self) -> Balancer | None:
        """Has experts moved among ranks; None where there are none to move."""

    def launch(self, plan: StepPlan) -> Pending:
        """Starts a step, and does not wait for its end."""

    def foresee(self, sequences: tuple[Sequence, ...]) -> None:
        """The next step will run one more token of these sequences, in this order, unless one of them ends."""

    def idle(self) -> None:
        """There was nothing to compute; called now and then as long as that is so."""


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What one step did."""

    plan: StepPlan
    emitted: tuple[Emitted, ...]


class StepFailed(Exception):
    """The computation of a step raised; the sequences of `plan` are as they were before it.

    Attributes:
        plan: The step.
        sequences: Who cannot go on: all of them, unless it is known whose rows are at fault.
    """

    def __init__(self, plan: StepPlan, sequences: tuple[Sequence, ...]) -> None:
        super().__init__(f"a step of {plan.tokens} tokens failed")
        self.plan = plan
        self.sequences = sequences


class StepLoop:
    """Drives a runner as its scheduler plans.

    Of the next step everything is ready when this one ends, but for the tokens: its answers have their blocks, and
    their positions and slots are worked out. It is planned only then all the same, in a few microseconds: who has
    come, ended or been cancelled in the meantime takes effect at once, and no plan has to be taken back.

    Args:
        scheduler: Decides.
        runner: Computes.

    Attributes:
        steps: Steps so far.
        computed_tokens: Their rows.
        runner: Computes; another one may follow between two steps.
    """

    def __init__(self, scheduler: Scheduler | Lanes, runner: Runner) -> None:
        self.steps = 0
        self.computed_tokens = 0
        self._scheduler = scheduler
        self.runner = runner

    def step(self, meanwhile: Callable[[], None]) -> StepOutcome | None:
        """Runs one step; None when there is nothing to compute.

        Args:
            meanwhile: Called once, while the step computes or where there is nothing to compute; it may add, park and
                release sequences.

        Raises:
            StepFailed: with the plan, from the error of the computation.
        """
        plan = self._scheduler.schedule()
        if not plan:
            self.runner.idle()
            meanwhile()
            return None
        result = self._compute(plan, meanwhile)
        self.steps += 1
        self.computed_tokens += plan.tokens
        return StepOutcome(plan, tuple(self._scheduler.commit(plan, result)))

    def _compute(self, plan: StepPlan, meanwhile: Callable[[], None]) -> StepResult:
        try:
            pending = self.runner.launch(plan)
        except Exception as error:
            raise StepFailed(plan, plan.sequences) from error
        try:
            meanwhile()
            self.runner.foresee(self._scheduler.prepare(plan))
        finally:
            result = self._join(plan, pending)  # nobody may touch the blocks of a step before its end
        return result

    def _join(self, plan: StepPlan, pending: Pending) -> StepResult:
        try:
            return pending.wait()
        except Exception as error:
            self.runner.foresee(())
            at_fault = error.sequences if isinstance(error, NoFiniteScore) else plan.sequences
            raise StepFailed(plan, at_fault) from error
