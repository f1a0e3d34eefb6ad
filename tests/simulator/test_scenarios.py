"""Scenarios are read strictly, and mistakes are named with their line."""

from pathlib import Path

import pytest

from triptych.core.errors import InvalidArgument, NotFound
from triptych.simulator.reading import load_scenario, names, parse
from triptych.simulator.scenario import Scenario


def test_those_of_the_package_are_known_by_name() -> None:
    assert {
        "quiet",
        "crashes",
        "network",
        "few-retries",
        "everything",
        "overload",
        "rolling",
        "islands",
        "1D",
        "1E1P1D",
        "2E2P3D",
    } <= set(names())
    for name in names():
        assert load_scenario(name).summary


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("")
    assert load_scenario(str(path)) == Scenario()


def test_every_mistake_is_named_with_its_line() -> None:
    text = "requests:\n  cuont: 3\nfaults:\n  crash: -1\ncluster:\n  layout: 1X\n"
    with pytest.raises(InvalidArgument) as caught:
        parse(text, "mine.yaml")
    lines = caught.value.message.splitlines()
    assert "mine.yaml:2:3: unknown key 'requests.cuont'" in lines
    assert any(line.startswith("mine.yaml:4:3: faults.crash") and "got -1" in line for line in lines)
    assert any(line.startswith("mine.yaml:6:3: cluster.layout") for line in lines)


def test_a_mistake_in_the_arrivals_is_found_in_its_line() -> None:
    with pytest.raises(InvalidArgument, match=r"mine.yaml:2:29: requests.arrivals.rate"):
        parse("requests:\n  arrivals: {kind: poisson, rate: 0}\n", "mine.yaml")


def test_what_is_neither_a_file_nor_a_name_is_refused() -> None:
    with pytest.raises(NotFound, match="everything"):
        load_scenario("nonsense")


@pytest.mark.parametrize("bounds", ["[3, 1]", "[1]", "[0, 2]"])
def test_bounds_rise(bounds: str) -> None:
    with pytest.raises(InvalidArgument, match=r"requests.prompt_tokens"):
        parse(f"requests: {{prompt_tokens: {bounds}}}", "mine.yaml")
