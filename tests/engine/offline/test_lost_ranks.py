"""Ranks that are killed or stopped in the middle of a batch: requests end with the tokens of an undisturbed run."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from triptych.core.errors import FailedPrecondition, Internal, ResourceExhausted, Unavailable
from triptych.engine import Engine, SamplingParams
from triptych.engine.plan import StepPlan
from triptych.engine.ranks.computer import RankComputer
from triptych.engine.ranks.group import Followers
from triptych.engine.ranks.joining import Invitation
from triptych.engine.ranks.leader import Lane, LaunchedRanks, LeaderRunner
from triptych.engine.ranks.messages import StepDone
from triptych.engine.ranks.processes import start
from triptych.engine.ranks.replica import MAX_LOSSES, Replica
from triptych.engine.ranks.settings import RankSettings, Share
from triptych.engine.ranks.testing import RankThreads
from triptych.models.progress import SILENT, Progress
from triptych.models.resolve import resolve
from triptych.parallel import Mesh, Parallelism, RankLost
from triptych.parallel.channel import Hub
from triptych.parallel.rendezvous import Host

Open = Callable[..., Engine]
SILENCE = 10.0
"""Seconds: a rank that lives says so even on a machine that has much else to do."""


@pytest.fixture(scope="module")
def engine(llama: Path, open_engine: Open) -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("triptych.engine.ranks.group.SILENCE", SILENCE)
        with open_engine(llama, tensor_parallel=2, blocks=60, max_batch_tokens=24) as engine:
            yield engine
            pids = engine.ranks
        assert not any(psutil.pid_exists(pid) for pid in pids)


def ask(engine: Engine, prompts: list[list[int]]) -> list[tuple[int, ...]]:
    """Greedy answers, and seeded ones with penalties, of which some prompts have two."""
    greedy = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True)
    drawn = SamplingParams(seed=5, max_tokens=20, top_k=30, n=2, presence_penalty=0.5, ignore_eos=True)
    params = [drawn if place % 2 else greedy for place in range(len(prompts))]
    found = engine.generate(prompts, params)
    return [one.token_ids for first in found for one in (first, *first.others)]


def processes() -> list[psutil.Process]:
    """The ranks that this process has started; other tests may have started something else."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # it has ended since
            if child.status() != psutil.STATUS_ZOMBIE and "triptych.engine.ranks.child" in child.cmdline():
                found.append(child)
    return found


def prompts(count: int) -> list[list[int]]:
    return [torch.randint(4, 300, (length,)).tolist() for length in torch.randint(3, 40, (count,)).tolist()]


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Has something done while the nth step from now computes."""

    def arrange(number: int, act: Callable[[], None]) -> None:
        launch, left = LeaderRunner.launch, iter(range(number, -1, -1))

        def launched(self: LeaderRunner, plan: StepPlan) -> LaunchedRanks:
            step = launch(self, plan)
            if next(left, None) == 1:
                act()
            return step

        monkeypatch.setattr(LeaderRunner, "launch", launched)

    return arrange


@pytest.mark.parametrize("lost_again", [False, True])
def test_a_lost_rank_changes_no_token(
    engine: Engine, lost_again: bool, at_step: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands still; or it is killed, and so is the one that takes its place before it is ready."""
    asked = prompts(6)
    undisturbed = ask(engine, asked)
    (lost,) = engine.ranks
    killed: list[int] = []
    load = Share.load

    def loading(*arguments: Any) -> Share:
        if lost_again and not killed:
            (child,) = processes()
            killed.append(child.pid)
            child.kill()
        return load(*arguments)

    monkeypatch.setattr(Share, "load", loading)
    at_step(7, lambda: os.kill(lost, signal.SIGKILL if lost_again else signal.SIGSTOP))
    assert ask(engine, asked) == undisturbed
    assert not any(map(psutil.pid_exists, [lost, *killed]))
    assert tuple(child.pid for child in processes()) == engine.ranks
    engine.core.scheduler.check_integrity()
    assert caplog.text.count("the ranks are started again: rank 1") == 1 + len(killed) == 1 + lost_again


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_that_gives_up_is_lost_too(
    mixture: Path, open_engine: Open, rank: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Rank 0, one of its lane, and the first one of another lane; as threads."""
    monkeypatch.setattr("triptych.engine.engine.Replica", partial(Replica, start=RankThreads))
    monkeypatch.setattr("triptych.parallel.channel.hub._CAUSE", 60.0)  # what follows from it may come before it
    compute, left = RankComputer.compute, iter(range(8, -1, -1))

    def computing(self: RankComputer, *arguments: Any) -> StepDone:
        if self.mesh.rank == rank and next(left, None) == 0:
            raise Internal("out of luck")
        return compute(self, *arguments)

    with open_engine(mixture, tensor_parallel=2, expert_parallel=2, blocks=60, max_batch_tokens=24) as engine:
        asked = prompts(6)
        undisturbed = ask(engine, asked)
        monkeypatch.setattr(RankComputer, "compute", computing)
        assert ask(engine, asked) == undisturbed
        engine.core.scheduler.check_integrity()
    assert f"the ranks are started again: rank {rank} gave up: Internal: out of luck" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize(("kind", "method"), [(Lane, "launch"), (LaunchedRanks, "_answer")])
def test_a_step_that_rank_0_leaves_halfway_is_not_taken_for_the_next(
    mixture: Path, open_engine: Open, kind: type, method: str, error: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other ranks have been told it, and one of them may have answered."""
    monkeypatch.setattr("triptych.engine.engine.Replica", partial(Replica, start=RankThreads))
    go_on, left = getattr(kind, method), iter(range(5, -1, -1))  # the second of two lanes

    def leave(*arguments: Any) -> Any:
        if (leaves := next(left, None) == 0) and method == "launch":
            go_on(*arguments)
        if leaves:
            raise error
        return go_on(*arguments)

    with open_engine(mixture, expert_parallel=2, blocks=60) as engine:
        asked, others = prompts(4), prompts(4)
        undisturbed, undisturbed_others = ask(engine, asked), ask(engine, others)
        monkeypatch.setattr(kind, method, leave)
        if error is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                ask(engine, asked)
        assert ask(engine, others) == undisturbed_others
        assert ask(engine, asked) == undisturbed
        engine.core.scheduler.check_integrity()


def test_a_rank_that_lives_and_does_not_answer_is_lost_too(
    mixture: Path, open_engine: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The only one of its lane: behind the last layer no other rank waits for it."""
    monkeypatch.setattr("triptych.engine.engine.Replica", partial(Replica, start=RankThreads))
    monkeypatch.setattr("triptych.engine.ranks.leader.PATIENCE", 8.0)
    compute, left, over = RankComputer.compute, iter(range(8, -1, -1)), threading.Event()

    def computing(self: RankComputer, *arguments: Any) -> StepDone:
        done = compute(self, *arguments)
        if self.mesh.rank == 1 and next(left, None) == 0:
            over.wait()
        return done

    with open_engine(mixture, expert_parallel=2, blocks=60) as engine:
        asked = prompts(4)
        undisturbed = ask(engine, asked)
        assert engine._replica is not None
        engine._replica.group._hub.on_lost(lambda lost: over.set())
        monkeypatch.setattr(RankComputer, "compute", computing)
        assert ask(engine, asked) == undisturbed
    assert "the ranks are started again: rank 1 has not answered within 8 s" in caplog.text


def test_ranks_that_do_not_come_are_given_up_with_the_reason_until_they_are_asked_for_again(
    llama: Path, open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[type[RankThreads]] = []

    class Nobody(RankThreads):
        def __init__(self, invitations: Sequence[Invitation], on_end: Callable[[str], object]) -> None:
            super().__init__((), on_end)
            on_end("rank 1 (process 7) was ended by SIGKILL")

    def start(invitations: Sequence[Invitation], on_end: Callable[[str], object]) -> Followers:
        begun.append(Nobody if 0 < len(begun) < MAX_LOSSES else RankThreads)
        return begun[-1](invitations, on_end)

    monkeypatch.setattr("triptych.engine.engine.Replica", partial(Replica, start=start))
    with open_engine(llama, tensor_parallel=2, blocks=60) as engine:
        asked = prompts(3)
        undisturbed = ask(engine, asked)
        assert engine._replica is not None
        engine._replica.group._hub.blame(RankLost("rank 1 is gone"))
        with pytest.raises(Unavailable, match=r"3 times in a row .* rank 1 \(process 7\) was ended by SIGKILL"):
            ask(engine, asked)
        assert begun == [RankThreads, Nobody, Nobody]
        assert ask(engine, asked) == undisturbed


def test_settings_that_another_rank_refuses_are_refused_at_once(
    llama: Path, open_engine: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Invitation] = []
    load = Share.load

    def loading(settings: RankSettings, mesh: Mesh, progress: Progress = SILENT) -> Share:
        if mesh.rank == 1:
            raise ResourceExhausted("kv_cache_memory does not fit", field="kv_cache_memory")
        return load(settings, mesh, progress)

    def start(invitations: Sequence[Invitation], on_end: Callable[[str], object]) -> Followers:
        begun.extend(invitations)
        return RankThreads(invitations, on_end)

    monkeypatch.setattr(Share, "load", loading)
    monkeypatch.setattr("triptych.engine.engine.Replica", partial(Replica, start=start))
    with pytest.raises(ResourceExhausted, match="kv_cache_memory does not fit") as raised:
        open_engine(llama, tensor_parallel=2, blocks=60)
    assert raised.value.field == "kv_cache_memory"
    (one,) = begun
    assert repr(one.key) not in repr(one)


def test_a_closed_engine_stays_closed(llama: Path, open_engine: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Followers] = []

    def start(invitations: Sequence[Invitation], on_end: Callable[[str], object]) -> Followers:
        begun.append(RankThreads(invitations, on_end))
        return begun[-1]

    monkeypatch.setattr("triptych.engine.engine.Replica", partial(Replica, start=start))
    engine = open_engine(llama, tensor_parallel=2, blocks=60)
    engine.close()
    with pytest.raises(FailedPrecondition, match="the engine has been closed"):
        ask(engine, prompts(1))
    assert len(begun) == 1


def test_a_rank_ends_with_the_stream_that_its_parent_holds(llama: Path) -> None:
    """In the midst of joining, where nothing else would end it. The system closes that of a parent who dies."""
    hub, host = Hub(2), Host()
    settings = RankSettings(files=resolve(str(llama)), parallelism=Parallelism(2), kv_memory=1 << 20, adapters={})
    with start(Invitation(hub.address, hub.key, host.rendezvous, 1, settings)) as process:
        hub.gather(60)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 1
    hub.close()
