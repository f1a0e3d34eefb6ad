from concurrent.futures import Future
from typing import Any

import pytest

from triptych.stages.ranks.gathering import all_of, failed, outcome


def futures(count: int) -> "list[Future[Any]]":
    return [Future() for _ in range(count)]


def test_all_of_nothing_is_done() -> None:
    assert all_of([]).result(0) is None


def test_all_are_done_with_the_last_one() -> None:
    several = futures(3)
    together = all_of(several)
    for future in (several[2], several[0]):
        future.set_result(1)
        assert not together.done()
    several[1].set_result(2)
    assert together.result(0) is None


def test_one_that_fails_fails_all_at_once() -> None:
    several = futures(3)
    together = all_of(several)
    several[1].set_exception(KeyError("first"))
    assert isinstance(together.exception(0), KeyError)
    several[0].set_exception(ValueError("second"))
    several[2].set_result(0)
    assert isinstance(together.exception(0), KeyError)


def test_the_outcome_of_a_call_is_there_at_once() -> None:
    assert outcome(int, "5").result(0) is None
    with pytest.raises(ValueError, match="invalid literal"):
        outcome(int, "x").result(0)
    with pytest.raises(KeyError):
        failed(KeyError("x")).result(0)
