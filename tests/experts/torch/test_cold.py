"""What the CPU's part of a mixture takes, told to whoever decides on it."""

from types import SimpleNamespace

import pytest
import torch

from tests.support.offloading import GATING, mixed, resident
from tests.support.random_experts import draw
from triptych.experts.blob import Expert
from triptych.experts.torch import mixture
from triptych.experts.torch.mixture import planned_moe
from triptych.experts.torch.plan import Here, Plan, PlannedExperts


def test_expanding_experts_is_not_taken_for_computing_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [0.0], list[tuple[float, float]]()
    monkeypatch.setattr(mixture, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    compute = mixture._one

    def slowly(x: torch.Tensor, expert: Expert, gating: str) -> torch.Tensor:
        now[0] += 2.0
        return compute(x, expert, gating)  # type: ignore[arg-type]

    def made(expert: Expert) -> Expert:
        now[0] += 5.0
        return expert

    monkeypatch.setattr(mixture, "_one", slowly)
    drawn = [draw("bfloat16") for _ in range(3)]
    here = Here({n: lambda n=n: made(drawn[n]) for n in range(3)}, lambda *seconds: told.append(seconds))
    plan, exact = Plan([], [], lambda expert: None, here), resident(drawn)
    x, ids, weights = torch.randn(1, 64).bfloat16(), torch.arange(3, dtype=torch.int32).view(1, 3), torch.ones(1, 3)
    out = torch.empty_like(x)
    planned = PlannedExperts(exact.gate, exact.up, exact.down, plan=lambda: plan)

    planned_moe(x, planned, ids, weights, GATING, out)

    assert told == [(15.0, 6.0)]
    wanted = mixed(exact, x, ids, weights)
    torch.testing.assert_close(out, wanted, rtol=0.02, atol=0.02 * float(wanted.float().abs().max()))
