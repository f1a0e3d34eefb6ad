from collections import Counter

import pytest
import torch
from torch import Tensor

from tests.support.seeds import drawn_seed
from triptych.engine.drawing import Draw, draw
from triptych.engine.penalties import Seen, penalise
from triptych.engine.sampling import Sampling
from triptych.kernels.sampling import NUCLEUS

LARGE = 4 * NUCLEUS + 37
EVENLY = [(i + 0.5) / 1000 for i in range(1000)]


@pytest.fixture
def generator() -> torch.Generator:
    seed = drawn_seed()
    return torch.Generator().manual_seed(seed)


def params(**values: float) -> Sampling:
    return Sampling(**values)  # type: ignore[arg-type]


def draws(logits: Tensor, chosen: Sampling, numbers: list[float]) -> list[int]:
    return draw(logits.expand(len(numbers), -1), [Draw(chosen, u) for u in numbers])


def expected(logits: Tensor, chosen: Sampling) -> Tensor:
    """The distribution by the definition of each filter."""
    order = logits.sort(descending=True, stable=True).indices
    kept = order[: chosen.top_k or None]
    probabilities = torch.softmax(logits[kept].double() / chosen.temperature, dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    stays = (before < chosen.top_p) & (probabilities >= chosen.min_p * probabilities[0])
    stays[0] = True
    out = torch.zeros(len(logits), dtype=torch.float64)
    out[kept[stays]] = probabilities[stays]
    return out / out.sum()


VARIANTS = [
    params(),
    params(temperature=0.3),
    params(top_k=5),
    params(top_k=LARGE + 1),
    params(top_p=0.8),
    params(min_p=0.2),
    params(top_k=9, top_p=0.9, min_p=0.05, temperature=1.7),
    params(top_p=0.9, min_p=0.1),
]


@pytest.mark.parametrize("chosen", VARIANTS)
@pytest.mark.parametrize("vocabulary", [7, LARGE])
def test_tokens_come_as_often_as_their_probability(
    chosen: Sampling, vocabulary: int, generator: torch.Generator
) -> None:
    logits = torch.randn(vocabulary, generator=generator)
    logits[torch.randperm(vocabulary, generator=generator)[:4]] += 12
    probabilities = expected(logits, chosen)
    counts = Counter(draws(logits, chosen, EVENLY))
    assert all(probabilities[token] > 0 for token in counts)
    for token in probabilities.topk(min(4, vocabulary)).indices.tolist():
        assert abs(counts[token] - 1000 * float(probabilities[token])) <= 1


@pytest.mark.parametrize("top_p", [0.2, 0.95])
def test_a_nucleus_of_any_width_is_exact(top_p: float, generator: torch.Generator) -> None:
    logits = torch.randn(LARGE, generator=generator) / 4
    probabilities = expected(logits, params(top_p=top_p))
    kept = int((probabilities > 0).sum())
    assert (kept > NUCLEUS) == (top_p == 0.95)
    last = int(logits.sort(descending=True, stable=True).indices[kept - 1])
    middle = float(probabilities[:last].sum() + probabilities[last] / 2)
    *drawn, at_the_last = draws(logits, params(top_p=top_p), [0.0, 1 - 2**-53, *EVENLY, middle])
    assert set(drawn) <= set(logits.topk(kept).indices.tolist())
    assert at_the_last == last


@pytest.mark.parametrize(
    "chosen", [params(top_p=0.95), params(top_k=2000), params(top_k=2000, top_p=0.9, min_p=1e-3)]
)
def test_rounding_of_the_logits_hardly_ever_changes_a_token(chosen: Sampling, generator: torch.Generator) -> None:
    """Logits as those of a model in bfloat16, many of them equal but for rounding; against the usual order."""
    changed = changed_in_falling_order = 0
    for _ in range(3):
        logits = (2 * torch.randn(LARGE, generator=generator)).bfloat16().float()
        noisy = logits * (1 + 1e-6 * torch.randn(LARGE, generator=generator))
        numbers = torch.rand(200, generator=generator, dtype=torch.float64).tolist()
        changed += differing(draws(logits, chosen, numbers), draws(noisy, chosen, numbers))
        changed_in_falling_order += differing(falling(logits, chosen, numbers), falling(noisy, chosen, numbers))
    assert 5 * changed < 2 * changed_in_falling_order


def differing(before: list[int], after: list[int]) -> int:
    return sum(one != other for one, other in zip(before, after, strict=True))


def falling(logits: Tensor, chosen: Sampling, numbers: list[float]) -> list[int]:
    """Draws by probabilities cumulated from the largest on."""
    order = logits.sort(descending=True, stable=True).indices
    cumulative = expected(logits, chosen)[order].cumsum(dim=-1)
    places = torch.searchsorted(cumulative, torch.tensor(numbers, dtype=torch.float64), right=True)
    drawn: list[int] = order[places.clamp(max=len(order) - 1)].tolist()
    return drawn


def test_tokens_are_drawn_in_the_order_of_their_ids(generator: torch.Generator) -> None:
    logits = torch.randn(LARGE, generator=generator)
    for chosen in VARIANTS:
        drawn = draws(logits, chosen, EVENLY[::10])
        assert drawn == sorted(drawn)


def test_a_row_draws_the_same_in_any_company(generator: torch.Generator) -> None:
    logits = torch.randn(len(VARIANTS) * 3, LARGE, generator=generator) * 3
    numbers = torch.rand(len(logits), generator=generator, dtype=torch.float64).tolist()
    rows = [Draw(VARIANTS[i % len(VARIANTS)], u) for i, u in enumerate(numbers)]
    alone = [draw(logits[i : i + 1], [row])[0] for i, row in enumerate(rows)]
    assert draw(logits, rows) == alone
    order = torch.randperm(len(rows), generator=generator).tolist()
    assert draw(logits[order], [rows[i] for i in order]) == [alone[i] for i in order]
    assert draw(logits[:0], []) == []


@pytest.mark.parametrize(
    "chosen", [params(temperature=1e-300), params(temperature=1e-300, top_k=2), params(min_p=1.0)]
)
@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-53])
def test_extremes_take_the_likeliest(chosen: Sampling, u: float) -> None:
    assert draws(torch.tensor([-3e38, 1.0, 3e38, -torch.inf, 2.0]), chosen, [u]) == [2]


@pytest.mark.parametrize("chosen", [params(), params(min_p=0.5), params(top_k=2), params(top_p=0.99)])
@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
def test_impossible_tokens_at_the_ends_are_never_drawn(chosen: Sampling, u: float) -> None:
    assert draws(torch.tensor([-torch.inf, 1.0, 1.0, -torch.inf]), chosen, [u]) == [1 if u == 0 else 2]


def test_penalties_count_a_token_as_often_as_it_was_generated() -> None:
    prompt, answer = [0, 1, 1], [1, 2, 2, 2]
    logits = torch.tensor([4.0, -4.0, 4.0, 1.0])
    penalise(logits, params(repetition_penalty=2.0), Seen.of(prompt + answer, len(prompt)))
    assert logits.tolist() == [2.0, -8.0, 2.0, 1.0]
    penalise(logits, params(presence_penalty=0.5, frequency_penalty=0.25), Seen.of(prompt + answer, len(prompt)))
    assert logits.tolist() == [2.0, -8.75, 0.75, 1.0]
    penalise(logits, params(presence_penalty=0.5), Seen.of(prompt, len(prompt)))
    assert logits.tolist() == [2.0, -8.75, 0.75, 1.0]
