import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.random_experts import Made, make
from triptych.experts.memory import Memory
from triptych.experts.warm import WarmSet, read_warm, warm_path, write_warm


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return make(tmp_path / "model.experts", ("bfloat16", 4), ("bfloat16", 3))


WARM = WarmSet(((0.5, 0.0, 1.0, 0.25), (0.0, 0.125, 0.75)))


def test_what_was_written_is_read(made: Made) -> None:
    path = warm_path(made.store, 0)
    write_warm(path, made.store, WARM)
    assert read_warm(path, made.store) == WARM
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.experts", "model.experts.rank0.warm"]


def test_a_file_torn_or_changed_anywhere_is_ignored(made: Made) -> None:
    path = warm_path(made.store, 0)
    write_warm(path, made.store, WARM)
    content = path.read_bytes()
    for length in (0, 1, 32, 33, len(content) - 1, *random.sample(range(len(content)), 10)):
        path.write_bytes(content[:length])
        assert read_warm(path, made.store) is None
    for place in random.sample(range(len(content)), 40):
        changed = bytearray(content)
        changed[place] ^= 1 << random.randrange(8)
        path.write_bytes(changed)
        assert read_warm(path, made.store) is None


def test_what_belongs_to_other_weights_is_ignored(made: Made, tmp_path: Path) -> None:
    path = warm_path(made.store, 0)
    write_warm(path, made.store, WARM)
    other = make(tmp_path / "other.experts", ("bfloat16", 4), ("bfloat16", 3))
    assert read_warm(path, other.store) is None
    assert read_warm(path, replace(made.store, sums=made.store.sums[:1])) is None


def test_nothing_is_there_at_the_first_start(made: Made) -> None:
    assert read_warm(warm_path(made.store, 0), made.store) is None
    memory = Memory(made.store, [(0, 1, 2, 3), (0, 1, 2)], warm_path(made.store, 0), 0.0)
    assert memory.shares(0) == [0.0] * 4


def test_two_that_write_at_once_leave_what_one_of_them_wrote(made: Made) -> None:
    path = warm_path(made.store, 0)
    one = Memory(made.store, [(0, 1, 2, 3), (0, 1, 2)], path, 0.0)
    other = Memory(made.store, [(0, 1, 2, 3), (0, 1, 2)], path, 0.0)
    for memory, expert in ((one, 0), (other, 1)):
        memory.add(0, [10 * (number == expert) for number in range(4)], 10)
        memory.write(1.0)
    assert read_warm(path, made.store) == WarmSet(((0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0)))
    assert not list(path.parent.glob("*.partial"))


def test_a_folder_that_cannot_be_written_costs_a_cold_start_and_no_error(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "gone" / "file.warm"
    write_warm(path, made.store, WARM)
    assert read_warm(path, made.store) is None


def test_runs_before_weigh_as_much_as_a_thousand_steps(made: Made) -> None:
    path = warm_path(made.store, 0)
    write_warm(path, made.store, WARM)
    memory = Memory(made.store, [(0, 1, 2, 3), (0, 1, 2)], path, 0.0)
    assert memory.shares(0) == list(WARM.uses[0])
    memory.add(0, [0, 3000, 3000, 0], 3000)
    memory.write(1.0)
    again = read_warm(path, made.store)
    assert again is not None
    assert again.uses[0] == (0.125, 0.75, 1.0, 0.0625)


def test_uses_are_counted_by_number_in_the_file_whoever_has_them(made: Made) -> None:
    memory = Memory(made.store, [(2, 3), (0, 1)], warm_path(made.store, 0), 0.0)
    memory.add(0, [1, 4], 4)
    memory.add(0, [2, 8], 8)
    memory.rebind(0, (0, 3))
    memory.add(0, [8, 0], 16)
    assert memory.shares(0) == [0.5, 0.5]
    memory.write(1.0)
    written = read_warm(warm_path(made.store, 0), made.store)
    assert written is not None
    assert written.uses[0] == (0.5, 0.0, 0.125, 0.5)


def test_it_is_due_after_some_minutes_and_not_where_nothing_is_remembered(made: Made) -> None:
    memory = Memory(made.store, [(0,), (0,)], warm_path(made.store, 0), 0.0)
    assert not memory.due(299.0)
    assert memory.due(301.0)
    assert not Memory(made.store, [(0,), (0,)], None, 0.0).due(1e9)
