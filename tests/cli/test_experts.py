"""`triptych experts balance` against a fake cluster."""

import itertools
import json
from collections.abc import Callable, Iterator

import pytest

from triptych.cli.experts import balance
from triptych.client import Client
from triptych.client.testing import FakeServer, healthy_status
from triptych.core.errors import DeadlineExceeded
from triptych.stage.v1 import stage_pb2

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balance, "_SECONDS_BETWEEN", 0.0)


@pytest.fixture
def divided() -> Iterator[str]:
    """The address of a cluster whose decode worker divides experts."""
    status = healthy_status()
    decode = status.workers[2]
    layers = [
        stage_pb2.LayerBalance(layer=1, now=0.5),
        stage_pb2.LayerBalance(layer=3, now=0.75, before=0.6, after=0.9),
    ]
    decode.load.experts.CopyFrom(
        stage_pb2.ExpertBalance(
            layers=layers,
            rebalances=2,
            commits=3,
            moved_experts=4,
            staged_bytes=5 << 20,
            staging_us=60_000,
            given_up=1,
        )
    )
    with FakeServer(status=status) as server:
        yield server.address


def test_the_table_shows_every_layer_and_what_has_been_done(divided: str, run: Run) -> None:
    status, out, err = run("experts", "balance", "--address", divided)
    assert (status, err) == (0, "")
    heading, columns, first, second, done = out.splitlines()
    assert heading == "decode-0: balancedness 0.625, worst 0.500 in layer 1"
    assert columns.split("  ")[0] == "layer"
    assert first.split() == ["1", "0.500", "–", "–"]
    assert second.split() == ["3", "0.750", "0.600", "0.900"]
    assert done == (
        "2 rebalances, 3 layers moved: 4 experts, 5.0 MiB, 0.06 s in the background; 1 given up, 0 slow steps"
    )


def test_nothing_is_called_balanced_before_anything_has_been_counted(run: Run) -> None:
    status = healthy_status()
    status.workers[2].load.experts.CopyFrom(
        stage_pb2.ExpertBalance(layers=[stage_pb2.LayerBalance(layer=1), stage_pb2.LayerBalance(layer=3)])
    )
    with FakeServer(status=status) as server:
        _, out, _ = run("experts", "balance", "--address", server.address)
        heading, _, first, second, _ = out.splitlines()
        assert heading == "decode-0: balancedness not known before loads are counted"
        assert first.split() == ["1", "–", "–", "–"]
        assert second.split() == ["3", "–", "–", "–"]
        _, out, _ = run("experts", "balance", "--json", "--address", server.address)
        assert [layer["now"] for layer in json.loads(out)["decode-0"]["layers"]] == [None, None]


def test_force_waits_until_the_experts_have_moved(divided: str, run: Run) -> None:
    status, out, _ = run("experts", "balance", "--force", "--address", divided)
    assert status == 0
    assert out.splitlines()[0] == "decode-0: balancedness 1.000, worst 1.000 in layer 1"
    assert "3 rebalances, 5 layers moved" in out


def test_without_waiting_it_shows_that_experts_move(divided: str, run: Run) -> None:
    _, out, _ = run("experts", "balance", "decode-0", "--force", "--no-wait", "--address", divided)
    assert out.splitlines()[0] == "decode-0: balancedness 0.625, worst 0.500 in layer 1, experts are moving"


def test_json_has_every_field(divided: str, run: Run) -> None:
    _, out, _ = run("experts", "balance", "--json", "--address", divided)
    seen = json.loads(out)["decode-0"]
    assert (seen["staging_us"], seen["slow_steps"], seen["moving"]) == (60_000, 0, False)
    assert seen["layers"][0] == {"layer": 1, "now": 0.5, "before": None, "after": None}


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_cluster_without_experts_to_move_says_so(server: FakeServer, run: Run, force: tuple[str, ...]) -> None:
    status, out, err = run("experts", "balance", *force, "--address", server.address)
    assert (status, out) == (1, "")
    assert err.startswith("error: no worker divides experts among ranks, and can move them")


def test_the_status_has_a_line_for_each_worker_with_experts(divided: str, run: Run) -> None:
    _, out, _ = run("status", "--once", "--address", divided)
    assert out.splitlines()[-1] == "decode-0: balancedness 0.625, worst 0.500 in layer 1"


def test_a_worker_that_goes_away_is_not_waited_for(divided: str) -> None:
    with Client(divided) as client:
        balance.follow(client, {"decode-7": 3}, pause=lambda: pytest.fail("it waits"))


def test_a_worker_that_has_started_again_is_not_waited_for(divided: str) -> None:
    with Client(divided) as client:
        balance.follow(client, {"decode-0": 3}, pause=lambda: pytest.fail("it waits"))


def test_a_worker_that_moves_nothing_is_given_up(divided: str) -> None:
    seconds = itertools.count(step=200)
    with Client(divided) as client, pytest.raises(DeadlineExceeded, match="decode-0 moved no experts for 300 s"):
        balance.follow(client, {"decode-0": 2}, pause=lambda: None, clock=lambda: next(seconds))
