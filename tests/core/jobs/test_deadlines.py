from triptych.core.generation import OperationKey
from triptych.core.jobs.deadlines import Deadlines


def test_deadlines_come_up_in_their_order_and_once() -> None:
    deadlines = Deadlines()
    a, b, c = (OperationKey(name, 1) for name in "abc")
    deadlines.add(a, 2.0)
    deadlines.add(b, 1.0)
    deadlines.add(c, 1.0)
    assert (deadlines.next, deadlines.due(0.9)) == (1.0, [])
    assert deadlines.due(1.0) == [b, c]
    deadlines.drop(a)
    assert (deadlines.next, deadlines.due(9.0)) == (None, [])


def test_a_name_may_come_back_with_another_deadline() -> None:
    deadlines, key = Deadlines(), OperationKey("a", 1)
    deadlines.add(key, 1.0)
    deadlines.drop(key)
    deadlines.add(key, 2.0)
    assert (deadlines.next, deadlines.due(1.5), deadlines.due(2.0)) == (2.0, [], [key])


def test_those_of_ended_operations_do_not_pile_up() -> None:
    deadlines = Deadlines()
    for number in range(10_000):
        key = OperationKey("r", number)
        deadlines.add(key, 1e6)
        deadlines.drop(key)
        assert len(deadlines._heap) < 200
