import json
import random
from pathlib import Path

import pytest

from triptych.cli.bench.serve.lengths import Fixed, Uniform
from triptych.cli.bench.serve.options import DEFAULT_REQUESTS, Arrivals, read_mix
from triptych.cli.bench.serve.runs import ClosedLoad, PoissonLoad, TraceLoad, poisson_loads
from triptych.cli.bench.serve.schedule import LEAST_PROMPT, Arrival, Bound, Mix, Work, read_trace, schedule, works
from triptych.core.errors import InvalidArgument, NotFound

MIX = Mix(Uniform(20, 40), Uniform(1, 9), Fixed(0))


def arrivals(rate: float, bound: Bound, seed: int) -> tuple[Arrival, ...]:
    return schedule(rate, works(MIX, random.Random(seed)), bound, random.Random(seed + 1))


def test_poisson_arrivals_have_the_mean_rate_and_its_variance(seed: int) -> None:
    dues = [arrival.due for arrival in arrivals(5.0, Bound(4000, None), seed)]
    gaps = [later - earlier for earlier, later in zip([0.0, *dues], dues, strict=False)]
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert min(gaps) >= 0
    assert mean == pytest.approx(0.2, rel=0.1)
    assert variance == pytest.approx(0.04, rel=0.3)


def test_the_same_seed_gives_the_same_requests(seed: int) -> None:
    bound = Bound(50, None)
    assert poisson_loads((1.0, 4.0), MIX, bound, seed) == poisson_loads((1.0, 4.0), MIX, bound, seed)
    assert poisson_loads((1.0,), MIX, bound, seed) != poisson_loads((1.0,), MIX, bound, seed + 1)


def test_no_two_requests_of_a_command_share_a_prompt(seed: int) -> None:
    loads = poisson_loads((1.0, 4.0), MIX, Bound(20, None), seed)
    assert [a.work.number for load in loads for a in load.arrivals] == list(range(40))


def test_a_run_ends_after_its_requests_or_its_seconds(seed: int) -> None:
    assert len(arrivals(10.0, Bound(7, None), seed)) == 7
    assert len(arrivals(1000.0, Bound(7, 60.0), seed)) == 7
    within = arrivals(50.0, Bound(None, 4.0), seed)
    assert 120 < len(within) < 290
    assert within[-1].due < 4.0


def test_a_trace_is_replayed_from_its_first_line(tmp_path: Path) -> None:
    entries = [(10.0, 100, 5, 0), (10.5, 2, 1, 3), (10.5, 30, 7, 0), (13.0, 30, 7, 0)]
    keys = ("arrival", "prompt_tokens", "output_tokens", "images")
    path = tmp_path / "trace.jsonl"
    path.write_text("\n\n".join(json.dumps(dict(zip(keys, entry, strict=True))) for entry in entries))
    assert read_trace(path, Bound(None, 3.0)) == (
        Arrival(0.0, Work(0, 100, 5, 0)),
        Arrival(0.5, Work(1, LEAST_PROMPT, 1, 3)),
        Arrival(0.5, Work(2, 30, 7, 0)),
    )
    assert len(read_trace(path, Bound(2, None))) == 2
    assert len(read_trace(path, Bound(None, None))) == 4


@pytest.mark.parametrize(
    ("line", "said"),
    [("{}", "line 2"), ("7", "line 2"), ("[1", "line 2"), ('{"arrival": 1, "prompt_tokens": 4}', "line 2"),
     ('{"arrival": 1, "prompt_tokens": 4, "output_tokens": 0}', "at least 1"),
     ('{"arrival": 0.5, "prompt_tokens": 4, "output_tokens": 1}', "before")],
)  # fmt: skip
def test_a_line_that_is_no_arrival_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "trace"
    path.write_text('{"arrival": 1, "prompt_tokens": 9, "output_tokens": 1}\n' + line)
    with pytest.raises(InvalidArgument, match=said) as refused:
        read_trace(path, Bound(None, None))
    assert refused.value.field == "trace"


def test_a_trace_must_exist_and_hold_requests(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_trace(tmp_path / "none", Bound(None, None))
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(InvalidArgument, match="no request"):
        read_trace(tmp_path / "empty", Bound(None, None))


def test_the_options_choose_one_way_of_arriving(tmp_path: Path, seed: int) -> None:
    mix, none = read_mix("16", "4", "0"), Bound(None, None)
    (tmp_path / "t").write_text('{"arrival": 1, "prompt_tokens": 9, "output_tokens": 1}')
    (alone,) = Arrivals(None, None, None).loads(mix, none, seed)
    assert isinstance(alone, PoissonLoad)
    assert (alone.rate, len(alone.arrivals)) == (1.0, DEFAULT_REQUESTS)
    two = Arrivals("2,8", None, None).loads(mix, Bound(3, None), seed)
    assert [(load.rate, len(load.arrivals)) for load in two if isinstance(load, PoissonLoad)] == [(2.0, 3), (8.0, 3)]
    assert Arrivals(None, None, 8).loads(mix, none, seed) == (
        ClosedLoad(8, mix, Bound(DEFAULT_REQUESTS, None), seed),
    )
    (trace,) = Arrivals(None, tmp_path / "t", None).loads(mix, none, seed)
    assert isinstance(trace, TraceLoad)
    with pytest.raises(InvalidArgument, match="one of"):
        Arrivals("1", None, 8).loads(mix, none, seed)
    for rates in ("0", "-1", "nan", "inf", "fast"):
        with pytest.raises(InvalidArgument, match="--rate"):
            Arrivals(rates, None, None).loads(mix, none, seed)
