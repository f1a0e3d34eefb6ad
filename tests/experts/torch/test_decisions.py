import itertools
import random

import pytest

from triptych.experts.torch.cold import Copied, Soonest
from triptych.experts.torch.finish import Costs, Miss, computed
from triptych.experts.torch.host_slots import HostSlots, Key


def test_with_a_slow_bus_the_cpu_computes_and_with_a_fast_one_it_does_not() -> None:
    misses = [Miss(expert, 1, 1000, 1000) for expert in range(4)]
    assert computed(misses, 0, Costs(copy=1.0, compute=0.01, expand=0.0)) == {0, 1, 2, 3}
    assert computed(misses, 0, Costs(copy=0.01, compute=1.0, expand=0.0)) == frozenset()


def test_both_work_at_the_same_time() -> None:
    misses = [Miss(expert, 1, 1000, 1000) for expert in range(4)]
    assert len(computed(misses, 0, Costs(copy=1.0, compute=1.0, expand=0.0))) == 2


def test_the_cpu_takes_more_when_the_bus_is_busy() -> None:
    misses = [Miss(expert, 1, 1000, 1000) for expert in range(4)]
    costs = Costs(copy=1.0, compute=1.0, expand=0.0)
    assert len(computed(misses, 2000, costs)) == 3


def test_experts_of_many_rows_are_copied() -> None:
    misses = [Miss(0, 64, 1000, 1000), Miss(1, 1, 1000, 1000), Miss(2, 64, 1000, 1000), Miss(3, 1, 1000, 1000)]
    assert computed(misses, 0, Costs(copy=1.0, compute=1.0, expand=0.0)) == {1, 3}


@pytest.mark.parametrize("_", range(20))
def test_no_other_division_by_rows_is_done_sooner(_: int) -> None:
    costs = Costs(random.random(), random.random(), 0.0)
    misses = [Miss(expert, random.randint(1, 9), 100, 100) for expert in range(6)]
    queued = random.randint(0, 300)

    def done(chosen: frozenset[int]) -> float:
        on_cpu = sum(miss.rows * miss.nbytes for miss in misses if miss.expert in chosen) * costs.compute
        copied = [miss.copied for miss in misses if miss.expert not in chosen]
        return max(on_cpu, (queued + sum(copied)) * costs.copy if copied else 0.0)

    subsets = (
        frozenset(chosen) for count in range(7) for chosen in itertools.combinations(range(len(misses)), count)
    )
    assert done(computed(misses, queued, costs)) == pytest.approx(min(map(done, subsets)))


def test_rounded_experts_are_fewer_bytes_to_the_bus_and_as_many_to_the_cpu() -> None:
    rounded, exact = Miss(0, 1, 500, 1000, rounded=True), Miss(1, 1, 1000, 1000)
    costs = Costs(copy=1.0, compute=0.6, expand=0.0)
    assert computed([rounded], 0, costs) == frozenset()  # 500 seconds or 600
    assert computed([exact], 0, costs) == {1}
    assert computed([rounded, exact], 0, costs) == {1}


def test_the_cpu_expands_rounded_experts_first_and_that_takes_time() -> None:
    misses = [Miss(0, 1, 500, 1000, rounded=True)]
    assert computed(misses, 0, Costs(copy=1.0, compute=0.3, expand=0.1)) == {0}
    assert computed(misses, 0, Costs(copy=1.0, compute=0.3, expand=0.3)) == frozenset()


@pytest.mark.parametrize("_", range(20))
def test_with_both_forms_no_other_division_is_done_sooner_by_an_expert_or_more(_: int) -> None:
    costs = Costs(random.random(), random.random(), random.random())
    misses = [
        Miss(expert, random.randint(1, 9), 30 if rounded else 100, 100, rounded=rounded)
        for expert, rounded in enumerate(random.choices((False, True), k=6))
    ]
    queued = random.randint(0, 300)

    def done(chosen: frozenset[int]) -> float:
        on_cpu = sum(costs.on_cpu(miss) for miss in misses if miss.expert in chosen)
        copied = [miss.copied for miss in misses if miss.expert not in chosen]
        return max(on_cpu, (queued + sum(copied)) * costs.copy if copied else 0.0)

    subsets = (
        frozenset(chosen) for count in range(7) for chosen in itertools.combinations(range(len(misses)), count)
    )
    longest = max(max(costs.on_cpu(miss), miss.copied * costs.copy) for miss in misses)
    assert done(computed(misses, queued, costs)) < min(map(done, subsets)) + longest + 1e-6


def test_nothing_is_computed_elsewhere_unless_that_is_chosen() -> None:
    assert Copied().choose([Miss(0, 1, 1, 1)], 10**12) == frozenset()


def test_what_the_cpu_costs_follows_what_is_measured() -> None:
    cold = Soonest(Costs(copy=1.0, compute=100.0, expand=0.0))
    misses = [Miss(0, 1, 10, 10)]
    assert not cold.choose(misses, 0)
    for _ in range(40):
        cold.computed(misses, expanding=0.0, computing=1.0)
    assert cold.choose(misses, 0) == {0}


def test_rounded_experts_do_not_make_exact_ones_look_dear() -> None:
    """A row of either takes a second; expanding the rounded one takes nine more."""
    cold = Soonest(Costs(copy=1.0, compute=1.0, expand=1.0))
    rounded, exact = Miss(0, 1, 3, 10, rounded=True), Miss(1, 2, 10, 10)
    for _ in range(80):
        cold.computed([rounded], expanding=9.0, computing=1.0)
        cold.computed([exact], expanding=0.0, computing=2.0)
        cold.computed([rounded, exact], expanding=9.0, computing=3.0)
    assert [cold.costs.copy, cold.costs.compute, cold.costs.expand] == pytest.approx([1.0, 0.1, 0.9])


def test_the_slot_of_the_host_that_was_used_least_recently_goes_first() -> None:
    slots = HostSlots(3)
    taken = {key: slots.take(key) for key in (Key(0, 0), Key(0, 1), Key(0, 2))}
    assert sorted(taken.values()) == [0, 1, 2]  # type: ignore[type-var]
    slots.find(Key(0, 0))
    assert slots.take(Key(1, 0)) == taken[Key(0, 1)]
    assert slots.find(Key(0, 1)) is None


def test_a_slot_that_somebody_holds_stays_until_all_have_let_go() -> None:
    slots = HostSlots(2)
    first, second = slots.take(Key(0, 0)), slots.take(Key(0, 1))
    assert first is not None
    assert second is not None
    for slot in (first, first, second):
        slots.pin(slot)
    assert slots.take(Key(0, 2)) is None
    slots.unpin(first)
    assert slots.take(Key(0, 2)) is None
    slots.unpin(first)
    assert slots.take(Key(0, 2)) == first


def test_a_slot_whose_read_failed_is_free_at_once() -> None:
    slots = HostSlots(1)
    slot = slots.take(Key(0, 0))
    slots.forget(Key(0, 0))
    assert slots.find(Key(0, 0)) is None
    assert slots.take(Key(0, 1)) == slot
