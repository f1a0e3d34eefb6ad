import random
import statistics
from pathlib import Path

import pytest

from triptych.cli.bench.serve.lengths import Fixed, Listed, LogNormal, Uniform, draw, parse_lengths
from triptych.core.errors import InvalidArgument, NotFound


def test_lengths_are_read_as_users_write_them(tmp_path: Path) -> None:
    (tmp_path / "lengths").write_text("5\n7\n\n5\n")
    assert parse_lengths("128", "prompt") == Fixed(128)
    assert parse_lengths("32-256", "prompt") == Uniform(32, 256)
    assert parse_lengths("lognormal:128:0.6", "prompt") == LogNormal(128.0, 0.6)
    assert parse_lengths(f"@{tmp_path / 'lengths'}", "prompt") == Listed((5, 7, 5))


@pytest.mark.parametrize(
    "text",
    ["", "many", "-3", "1.5", "9-3", "1-2-3", "lognormal:128", "lognormal:0:1", "lognormal:5:-1", "lognormal:inf:1"],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="--output") as refused:
        parse_lengths(text, "output")
    assert refused.value.field == "output"


def test_a_file_must_exist_and_hold_numbers(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="none"):
        parse_lengths(f"@{tmp_path / 'none'}", "prompt")
    (tmp_path / "empty").touch()
    with pytest.raises(InvalidArgument):
        parse_lengths(f"@{tmp_path / 'empty'}", "prompt")


def test_draws_follow_the_distribution(seed: int) -> None:
    source = random.Random(seed)
    uniform = [draw(Uniform(3, 6), source) for _ in range(400)]
    assert set(uniform) == {3, 4, 5, 6}
    long_tailed = [draw(LogNormal(100, 0.5), source) for _ in range(4000)]
    assert 93 < statistics.median(long_tailed) < 107
    assert statistics.mean(long_tailed) > statistics.median(long_tailed)
    assert {draw(Listed((2, 9)), source) for _ in range(100)} == {2, 9}
    assert draw(Fixed(7), source) == 7
    assert draw(Fixed(1), source, least=8) == 8
