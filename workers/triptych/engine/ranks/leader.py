"""Rank 0's side of a step: tells the others, computes its own part on a thread of its own, and joins."""

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Sequence_
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from triptych.engine.balance import Balancer
from triptych.engine.batch_table import BatchTable
from triptych.engine.lane_plans import whole
from triptych.engine.plan import NoFiniteScore, StepPlan, StepResult
from triptych.engine.ranks.computer import RankComputer
from triptych.engine.ranks.messages import StepDone
from triptych.engine.ranks.rows import Choice
from triptych.engine.ranks.telling import Teller, choice_of
from triptych.engine.reading import given_up
from triptych.engine.sequence import Sequence
from triptych.models.step import StepInput
from triptych.parallel import Parallelism, RankLost
from triptych.parallel.channel import Hub
from triptych.parallel.patience import PATIENCE


class Lane:
    """Sequences with ranks of their own, as rank 0 sees them.

    Args:
        hub: Reaches the ranks.
        ranks: Those of the lane, rank 0 left out.
        table: The tensors of its steps.
    """

    def __init__(self, hub: Hub, ranks: tuple[int, ...], table: BatchTable) -> None:
        self._hub = hub
        self._ranks = ranks
        self._table = table
        self._teller = Teller(table)
        self._sampling: frozenset[Sequence] = frozenset()

    def launch(self, plan: StepPlan) -> tuple[StepInput, Choice]:
        """Has the lane's ranks compute a step, which may be empty.

        Raises:
            RankLost: a rank is gone.
        """
        self._sampling = frozenset(plan.sampling)
        step, choice = self._table.fill(plan), choice_of(plan)
        for message in self._teller.tell(plan, step, choice):
            self._hub.send(message, self._ranks)
        return step, choice

    def foresee(self, sequences: tuple[Sequence, ...]) -> None:
        """See `Runner.foresee`; sequences of other lanes are left out."""
        self._table.foresee(tuple([sequence for sequence in sequences if sequence in self._sampling]))


class LeaderRunner:
    """Runs plans on all ranks of a replica; see `engine.loop.Runner`.

    Rank 0 computes its part while its caller does something else. The first lane is its own; what the others yield
    comes back over the channel.

    Args:
        hub: Reaches the other ranks, all of which are there.
        computer: Rank 0's part.
        tables: The tensors of each lane's steps.
        parallelism: Which ranks are in which lane.
        balancer: Has experts moved between the steps, where there are any to move.
    """

    def __init__(
        self,
        hub: Hub,
        computer: RankComputer,
        tables: Sequence_[BatchTable],
        parallelism: Parallelism,
        balancer: Balancer | None = None,
    ) -> None:
        self._hub = hub
        self._computer = computer
        self.balancer = balancer
        leaders = range(0, parallelism.size, parallelism.attention_size)
        ranks = [tuple(r for r in parallelism.attention_ranks(leader) if r) for leader in leaders]
        self._lanes = [Lane(hub, *lane) for lane in zip(ranks, tables, strict=True)]
        self._answers: dict[int, SimpleQueue[StepDone | RankLost]] = {rank: SimpleQueue() for rank in leaders if rank}
        self._thread = ThreadPoolExecutor(1, "rank-0")
        hub.subscribe(StepDone, lambda rank, done: self._answers[rank].put(done))
        hub.on_lost(self._lose)

    def launch(self, plan: StepPlan) -> "LaunchedRanks":
        """Starts a step: of the only lane, or of all lanes, some of which may have nothing to do.

        Raises:
            RankLost: a rank is gone.
        """
        with _wholly(self._hub):
            if self.balancer:
                self.balancer.before_step()
            parts = plan.lanes or (plan,)
            (step, choice), *_ = [lane.launch(part) for lane, part in zip(self._lanes, parts, strict=True)]
            own = self._thread.submit(self._computer.compute, step, choice)
        return LaunchedRanks(self._hub, plan, own, self._answers, self.balancer)

    def foresee(self, sequences: tuple[Sequence, ...]) -> None:
        """See `Runner.foresee`; the sequences are those of all lanes."""
        for lane in self._lanes:
            lane.foresee(sequences)

    def idle(self) -> None:
        """Experts may move all the same."""
        if self.balancer:
            self.balancer.before_step()

    def close(self) -> None:
        """Ends the thread."""
        self._thread.shutdown()
        if self.balancer:
            self.balancer.close()

    def _lose(self, lost: RankLost) -> None:
        for answers in self._answers.values():
            answers.put(lost)


@dataclass(frozen=True, slots=True)
class LaunchedRanks:
    """A step that all ranks compute."""

    _hub: Hub
    _plan: StepPlan
    _own: Future[StepDone]
    _answers: Mapping[int, SimpleQueue[StepDone | RankLost]]
    _balancer: Balancer | None

    def wait(self) -> StepResult:
        """The tokens, when those of all lanes are there.

        Raises:
            NoFiniteScore: the model broke down on some of the sequences.
            Unavailable: experts could not be read.
            RankLost: a rank is gone; the group has ended.
        """
        with _wholly(self._hub):
            found = [self._own.result(), *(self._answer(rank) for rank in self._answers)]
        if self._balancer:
            self._balancer.after_step()
        broken: list[Sequence] = []
        results: list[StepResult] = []
        for part, done in zip(self._plan.lanes or (self._plan,), found, strict=True):
            if isinstance(done, RankLost):
                raise done
            if done.unread:  # all ranks have given the step up, and wait for the next
                raise given_up(done.unread)
            broken += [part.sampling[place] for place in done.broken]
            results.append(StepResult(done.token_ids, done.logprobs))
        if broken:
            raise NoFiniteScore(tuple(broken))
        return whole(self._plan, results) if self._plan.lanes else results[0]

    def _answer(self, rank: int) -> StepDone | RankLost:
        """What a lane has yielded; rank 0 is done, so the others should be."""
        try:
            return self._answers[rank].get(timeout=PATIENCE)
        except Empty:
            raise RankLost(f"rank {rank} has not answered within {PATIENCE:g} s") from None


@contextmanager
def _wholly(hub: Hub) -> Iterator[None]:
    """Ends the group when rank 0 leaves a step halfway: the others would answer it with the collectives of the next.

    Raises:
        RankLost: a rank is gone, or rank 0 has given up.
    """
    try:
        yield
    except RankLost as lost:
        raise hub.blame(lost) from lost
    except Exception as error:
        raise hub.blame(RankLost(f"rank 0 gave up: {type(error).__name__}: {error}")) from error
    except BaseException:  # Ctrl-C: whoever asks again begins with new ranks
        hub.blame(RankLost("rank 0 was interrupted"))
        raise
