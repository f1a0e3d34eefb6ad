"""The choice of experts: the kernel equals the reference, whose definition is checked by hand."""

import pytest
import torch
from torch import Tensor

from triptych.kernels import Routing, route
from triptych.kernels.native import team
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.routing import Route, accepts

# (experts, top_k, routing, corrected)
CASES = [
    (8, 2, Routing("softmax", renormalise=True), False),
    (60, 4, Routing("softmax", renormalise=False), False),
    (33, 33, Routing("softmax", renormalise=True), False),
    (256, 8, Routing("sigmoid", renormalise=True, scale=2.5, groups=8, top_groups=4), True),
    (16, 3, Routing("sigmoid", renormalise=False, scale=1.5, groups=16, top_groups=5), True),
    (1, 1, Routing("softmax", renormalise=True), False),
]


def call(
    op: object, logits: Tensor, correction: Tensor | None, routing: Routing, top_k: int
) -> tuple[Tensor, Tensor]:
    ids = torch.full((len(logits), top_k), -7, dtype=torch.int32)
    weights = torch.full((len(logits), top_k), torch.nan)
    assert callable(op)
    assert accepts(logits, correction, routing, ids, weights)
    op(logits, correction, routing, ids, weights)
    return ids, weights


@pytest.mark.parametrize(("experts", "top_k", "routing", "corrected"), CASES)
@pytest.mark.parametrize("rows", [0, 1, 70])
def test_equals_the_reference(
    isa: Isa, rows: int, experts: int, top_k: int, routing: Routing, corrected: bool
) -> None:
    logits = 3 * torch.randn(rows, experts)
    correction = torch.randn(experts) if corrected else None
    ids, weights = call(Route(isa), logits, correction, routing, top_k)
    expected_ids, expected = call(route.implementation("reference"), logits, correction, routing, top_k)
    assert torch.equal(ids, expected_ids)
    torch.testing.assert_close(weights, expected, rtol=2e-6, atol=1e-7)


def test_softmax_over_the_chosen_is_the_softmax_over_all_renormalised(isa: Isa) -> None:
    logits = torch.randn(5, 32)
    ids, weights = call(Route(isa), logits, None, Routing("softmax", renormalise=True), 12)
    top = logits.topk(12)
    assert torch.equal(ids.long(), top.indices)
    torch.testing.assert_close(weights, top.values.softmax(-1))


def test_a_correction_changes_the_choice_and_not_the_weights(isa: Isa) -> None:
    logits, correction = torch.tensor([[0.0, 1.0, 2.0, 3.0]]), torch.tensor([5.0, 0.0, 0.0, 0.0])
    ids, weights = call(Route(isa), logits, correction, Routing("sigmoid", renormalise=False, scale=2.0), 2)
    assert ids.tolist() == [[0, 3]]
    torch.testing.assert_close(weights, 2 * logits[:, [0, 3]].sigmoid())


def test_groups_are_chosen_by_their_two_best(isa: Isa) -> None:
    logits = torch.tensor([[9.0, -9.0, 1.0, 1.0, 2.0, -9.0]])
    routing = Routing("sigmoid", renormalise=False, groups=3, top_groups=1)
    ids, _ = call(Route(isa), logits, None, routing, 2)
    assert ids.tolist() == [[2, 3]]


def test_of_equal_scores_the_first_is_taken(isa: Isa) -> None:
    ids, weights = call(Route(isa), torch.zeros(2, 40), None, Routing("softmax", renormalise=True), 3)
    assert ids.tolist() == [[0, 1, 2]] * 2
    torch.testing.assert_close(weights, torch.full((2, 3), 1 / 3))


def test_what_is_not_a_number_stays_in_its_row_and_names_an_expert(isa: Isa) -> None:
    logits = torch.randn(3, 20)
    logits[1, 7] = torch.nan
    ids, weights = call(Route(isa), logits, None, Routing("softmax", renormalise=True), 4)
    assert weights[1].isnan().all()
    assert weights[[0, 2]].isfinite().all()
    assert ((ids >= 0) & (ids < 20)).all()


def test_a_recorded_call_follows_its_logits(isa: Isa, threads: int) -> None:
    logits, routing = torch.randn(400, 64), Routing("softmax", renormalise=True)
    ids, weights = torch.zeros(400, 8, dtype=torch.int32), torch.zeros(400, 8)
    with team.capture() as program:
        Route(isa)(logits, None, routing, ids, weights)
    for _ in range(2):
        logits.copy_(torch.randn(400, 64))
        program.run()
        again = call(Route(isa), logits, None, routing, 8)
        assert torch.equal(ids, again[0])
        assert torch.equal(weights, again[1])
