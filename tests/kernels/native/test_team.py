"""The thread team: every piece of every recorded call is computed once, in order, whoever takes part."""

import gc
import os
import signal
import threading

import pytest
import torch
from torch import Tensor

from triptych.kernels import add_rms_norm, gelu
from triptych.kernels.dispatch import NoBackend
from triptych.kernels.native import team
from triptych.kernels.native.isa import supported
from triptych.kernels.native.norm import Norm

CALLS = 50


@pytest.fixture(scope="module")
def norm() -> Norm:
    return Norm(supported()[0])


def chain(norm: Norm, x: Tensor, residual: Tensor) -> None:
    """Calls that depend on each other: one that starts early, or is run twice, shows."""
    weight = torch.ones(x.shape[1])
    for _ in range(CALLS):
        norm.add_rms_norm(x, residual, weight, 1e-6, x)


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(64, 1024, generator=generator), torch.randn(64, 1024, generator=generator)


def test_a_replay_equals_running_call_by_call_bit_for_bit(norm: Norm, threads: int) -> None:
    eager, replayed = inputs(), inputs()
    chain(norm, *eager)
    with team.capture() as program:
        chain(norm, *replayed)
    assert len(program) == CALLS
    assert all(torch.equal(a, b) for a, b in zip(replayed, inputs(), strict=True)), "recording computed"
    program.run()
    assert all(torch.equal(a, b) for a, b in zip(eager, replayed, strict=True))


def test_a_program_runs_many_times(norm: Norm, threads: int) -> None:
    eager, replayed = inputs(), inputs()
    with team.capture() as program:
        chain(norm, *replayed)
    for _ in range(40):
        chain(norm, *eager)
        program.run()
    assert torch.equal(eager[1], replayed[1])


def test_the_caller_may_do_something_else_before_it_joins(norm: Norm, threads: int) -> None:
    eager, replayed, beside, plain = inputs(), inputs(), inputs(), inputs()
    with team.capture() as program:
        chain(norm, *replayed)
    program.launch()
    chain(norm, *beside)  # an op of its own, on the calling thread
    program.join()
    chain(norm, *eager)
    chain(norm, *plain)
    assert torch.equal(eager[1], replayed[1])
    assert torch.equal(plain[1], beside[1])


def test_two_callers_at_once_do_not_disturb_each_other(norm: Norm, threads: int) -> None:
    expected = inputs()
    for _ in range(20):
        chain(norm, *expected)
    results = [inputs() for _ in range(3)]

    def repeat(x: Tensor, residual: Tensor) -> None:
        with team.capture() as program:
            chain(norm, x, residual)
        for _ in range(20):
            program.run()

    callers = [threading.Thread(target=repeat, args=result) for result in results]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(torch.equal(expected[1], result[1]) for result in results)


def test_programs_come_and_go(norm: Norm, threads: int) -> None:
    for _ in range(200):
        x, residual = torch.ones(8, 512), torch.ones(8, 512)
        with team.capture() as program:
            norm.add_rms_norm(x, residual, torch.ones(512), 0.0, x)
        program.run()
        assert residual[0, 0] == 2
        del program
    gc.collect()


def test_an_op_without_a_kernel_cannot_be_recorded() -> None:
    x = torch.ones(2, 2)
    with pytest.raises(NoBackend, match="gelu"), team.capture():
        gelu(x, x)
    add_rms_norm(x, x.clone(), torch.ones(2), 0.0, x)  # and nothing is recorded afterwards
    assert x[0, 0] == pytest.approx(1)


def test_the_team_changes_its_size_right_after_a_run(norm: Norm) -> None:
    before = team.threads()
    expected, x = inputs()[0], inputs()[0]
    out, wanted = torch.empty_like(x), torch.empty_like(x)
    norm.rms_norm(expected, torch.ones(x.shape[1]), 1e-6, wanted)
    try:
        for i in range(1000):
            norm.rms_norm(x, torch.ones(x.shape[1]), 1e-6, out)
            team.resize(3 + i % 2)
            assert team.threads() == 3 + i % 2
        assert torch.equal(out, wanted)
    finally:
        team.resize(before)


def test_a_run_that_was_never_joined_does_not_keep_the_team(norm: Norm, threads: int) -> None:
    x, residual = inputs()
    with team.capture() as program:
        chain(norm, x, residual)
    program.launch()
    program.launch()  # an interrupt came between launch and join
    program.join()
    program.launch()
    del program  # or the whole step was given up
    gc.collect()
    team.resize(threads + 1)
    assert team.threads() == threads + 1


def test_a_forked_child_computes_on_its_own_thread(norm: Norm, threads: int) -> None:
    x, residual = inputs()
    chain(norm, x, residual)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)  # a child that waits for a lock of a thread that it does not have ends, too
        again, beside = inputs()
        chain(norm, again, beside)
        os._exit(0 if team.threads() == 1 and torch.equal(beside, residual) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
