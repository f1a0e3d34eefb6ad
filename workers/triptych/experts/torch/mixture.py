"""A mixture whose experts are still being copied: those that are there first, sums in the order of the experts."""

import time

import torch
from torch import Tensor

from triptych.experts.blob import Expert
from triptych.experts.torch.plan import Plan, PlannedExperts
from triptych.kernels import ExpertProjection, Experts, Gating, moe
from triptych.kernels.dispatch import require_shape
from triptych.kernels.experts import down_rows, gated_rows

BACKEND = "planned"


def register(device: str) -> None:
    """Makes it the backend of `moe` for experts that have a plan, on devices of a type."""
    moe.register(BACKEND, device, planned_moe, lambda x, experts, *_: isinstance(experts, PlannedExperts))


def planned_moe(x: Tensor, experts: Experts, ids: Tensor, weights: Tensor, gating: Gating, out: Tensor) -> None:
    """See `triptych.kernels.moe`: bit for bit its reference, except for experts that the CPU computes.

    What the device can do at once is queued before the CPU computes; then comes what has arrived meanwhile.
    """
    assert isinstance(experts, PlannedExperts)
    require_shape(out, *x.shape)
    plan = experts.plan()
    places = {expert: (ids == expert).nonzero(as_tuple=True) for expert in plan.experts}
    rows = {expert: x[token] for expert, (token, _) in places.items()}
    for expert in plan.there:
        rows[expert] = gated_rows(rows[expert], experts, expert, gating)
    _compute_here(plan, rows, gating)
    for expert in plan.arriving(0):
        rows[expert] = gated_rows(rows[expert], experts, expert, gating)
    for expert in plan.there:
        rows[expert] = down_rows(rows[expert], experts, expert)
    for expert in plan.arriving(1):
        rows[expert] = down_rows(rows[expert], experts, expert)
    total = torch.zeros(out.shape, device=x.device)
    for expert in plan.experts:
        token, place = places[expert]
        total.index_add_(0, token, rows[expert] * weights[token, place].unsqueeze(1))
    out.copy_(total)


def _compute_here(plan: Plan, rows: dict[int, Tensor], gating: Gating) -> None:
    """On the CPU, by the kernels that it has."""
    if not plan.here.experts:
        return
    given = {expert: rows[expert].cpu() for expert in plan.here.experts}
    results, making, computing = dict[int, Tensor](), 0.0, 0.0
    for expert, make in plan.here.experts.items():
        started = time.perf_counter()
        matrices = make()
        made = time.perf_counter()
        results[expert] = _one(given[expert], matrices, gating)
        making += made - started
        computing += time.perf_counter() - made
    plan.here.computed(making, computing)
    for expert, result in results.items():
        rows[expert] = result.to(rows[expert].device).float()


def _one(x: Tensor, expert: Expert, gating: Gating) -> Tensor:
    gate, up, down = (
        ExpertProjection((matrix.weight,), None if matrix.bias is None else (matrix.bias,)) for matrix in expert
    )
    ids, weights = torch.zeros(len(x), 1, dtype=torch.int32), torch.ones(len(x), 1)
    out = torch.empty_like(x)
    moe(x, Experts(gate, up, down), ids, weights, gating, out)
    return out
