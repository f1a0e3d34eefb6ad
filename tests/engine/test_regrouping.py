"""Groups of answers that need the same experts: what they are, and when there are none."""

import numpy as np
import numpy.typing as npt
import pytest

from triptych.engine.regrouping import Needs, Round, Terms, missing, needs_of, round_of

Routes = npt.NDArray[np.int32]


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def routes(rng: np.random.Generator, layers: int, rows: int, top: int, first: int, last: int) -> Routes:
    """[layers, rows, top], distinct experts of [first, last)."""
    span = np.broadcast_to(np.arange(first, last, dtype=np.int32), (layers, rows, last - first))
    return rng.permuted(span, axis=2)[:, :, :top]


def sets(ids: Routes) -> list[list[set[int]]]:
    return [[set(layer[row].tolist()) for layer in ids] for row in range(ids.shape[1])]


def idle(count: int) -> npt.NDArray[np.int64]:
    return np.zeros(count, np.int64)


def bit_set(values: npt.NDArray[np.uint64]) -> set[int]:
    return {64 * word + bit for word, value in enumerate(values.tolist()) for bit in range(64) if value >> bit & 1}


@pytest.mark.parametrize("experts", [5, 64, 65, 200])
def test_sets_of_experts(rng: np.random.Generator, experts: int) -> None:
    ids = routes(rng, 3, 7, 4, 0, experts)
    needs = needs_of(ids, experts)
    assert [[bit_set(layer) for layer in row] for row in needs] == sets(ids)
    union = np.bitwise_or.reduce(needs)
    wanted = [set[int]().union(*(row[layer] for row in sets(ids))) for layer in range(3)]
    room = rng.integers(0, 20, 3)
    assert missing(union, room) == sum(max(0, len(w) - r) for w, r in zip(wanted, room.tolist(), strict=True))


def families(rng: np.random.Generator, sizes: tuple[int, ...], layers: int = 4, top: int = 12) -> Needs:
    """Answers of each family take all of 12 experts that no other family takes."""
    parts = [routes(rng, layers, size, top, 12 * place, 12 * place + 12) for place, size in enumerate(sizes)]
    return needs_of(np.concatenate(parts, axis=1), 12 * len(sizes))


def test_families_that_do_not_fit_together_take_turns(rng: np.random.Generator) -> None:
    needs = families(rng, (3, 5))
    assert round_of(needs, idle(8), Terms((12,) * 4, 4, 10)) == Round(((0, 1, 2), (3, 4, 5, 6, 7)), 4)
    waited = np.array([0, 0, 0, 1, 1, 2, 1, 1])
    assert round_of(needs, waited, Terms((12,) * 4, 4, 10)) == Round(((5, 3, 4, 6, 7), (0, 1, 2)), 4)


def test_more_families_have_shorter_turns(rng: np.random.Generator) -> None:
    found = round_of(families(rng, (2, 2, 2)), idle(6), Terms((12,) * 4, 4, 1))
    assert found == Round(((0, 1), (2, 3), (4, 5)), 2)
    assert round_of(families(rng, (1,) * 6), idle(6), Terms((12,) * 4, 4, 0)) is None, "too many to take turns"


def test_where_all_fit_there_are_no_groups(rng: np.random.Generator) -> None:
    assert round_of(families(rng, (3, 5)), idle(8), Terms((24,) * 4, 4, 0)) is None


def test_turns_that_cost_more_than_they_save_are_not_taken(rng: np.random.Generator) -> None:
    """Together: 4 steps that read 12 of 4 layers. In turns: both families are read once, in 4 steps more."""
    needs = families(rng, (4, 4))
    saved = 4 * 12 * 4 - 2 * 12 * 4
    assert round_of(needs, idle(8), Terms((12,) * 4, 4, saved / 4 - 0.1)) is not None
    assert round_of(needs, idle(8), Terms((12,) * 4, 4, saved / 4)) is None


def test_any_needs(rng: np.random.Generator) -> None:
    """Everybody is in one group; what is in a group fits, but for whoever does not fit alone; and the round pays."""
    found = 0
    for _ in range(300):
        count, layers, experts, top = rng.integers((2, 1, 4, 1), (20, 5, 100, 5)).tolist()
        ids = np.concatenate([_near(rng, layers, experts, min(top, experts)) for _ in range(count)], axis=1)
        needs, waited = needs_of(ids, experts), rng.integers(0, 5, count)
        room = rng.integers(1, experts, layers)
        terms = Terms(tuple(room.tolist()), int(rng.integers(1, 9)), float(rng.integers(0, 3)))
        turns = round_of(needs, waited, terms)
        everybody = missing(np.bitwise_or.reduce(needs), room)
        if turns is None:
            continue
        found += 1
        assert everybody
        assert sorted(index for group in turns.groups for index in group) == list(range(count))
        assert waited[turns.groups[0][0]] == waited.max()
        assert (len(turns.groups) - 1) * turns.steps <= terms.bound
        unions = [np.bitwise_or.reduce(needs[list(group)]) for group in turns.groups]
        assert all(len(g) == 1 or not missing(u, room) for g, u in zip(turns.groups, unions, strict=True))
        begun = sum(missing(u & ~before, 0 * room) for before, u in zip([unions[-1], *unions], unions, strict=False))
        assert begun + terms.step * (len(unions) - 1) * turns.steps < turns.steps * everybody
    assert found > 5


def _near(rng: np.random.Generator, layers: int, experts: int, top: int) -> Routes:
    """One row of some neighbourhood."""
    first = int(rng.integers(0, experts - top + 1))
    return routes(rng, layers, 1, top, first, min(experts, first + top + 1))
