"""`triptych experts record`, `train` and `replay` on a tiny mixture."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

from tests.support.recordings import MODEL, recording
from tests.support.seeds import drawn_seed
from triptych.experts.traces import Script, fewest_reads, read_route_model, read_routes, write_routes
from triptych.models.synthetic import synthetic

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        return synthetic("2MB")


@pytest.fixture
def trace(model: Path, tmp_path: Path, run: Run) -> Path:
    """Of five answers of eight tokens."""
    prompts, out = tmp_path / "prompts.txt", tmp_path / "routes.npz"
    prompts.write_text("a\n\nb c\nd\ne f g\nh\n")
    status, said, err = run("experts", "record", model, "--out", out, "--prompts", prompts, "--tokens", 8)
    assert status == 0, err
    assert "of 5 sequences" in said
    return out


def test_a_recording_is_the_same_each_time(model: Path, trace: Path, tmp_path: Path, run: Run) -> None:
    again = tmp_path / "again.npz"
    run("experts", "record", model, "--out", again, "--prompts", tmp_path / "prompts.txt", "--tokens", 8)
    assert read_routes(again).ids.tolist() == read_routes(trace).ids.tolist()
    assert read_routes(trace).sequences.max() == 4


def test_experts_that_do_not_all_fit_are_recorded_alike(model: Path, trace: Path, tmp_path: Path, run: Run) -> None:
    some = tmp_path / "some.npz"
    arguments = ("--out", some, "--prompts", tmp_path / "prompts.txt", "--tokens", 8, "--budget", "75%")
    assert run("experts", "record", model, *arguments)[0] == 0
    assert read_routes(some).model == read_routes(trace).model
    assert read_routes(some).ids.tolist() == read_routes(trace).ids.tolist()


def test_replay_says_what_every_choice_comes_to(trace: Path, tmp_path: Path, run: Run) -> None:
    lines, picture, route = tmp_path / "lines.json", tmp_path / "hits.png", tmp_path / "route.safetensors"
    assert run("experts", "train", trace, "--out", route)[0] == 0
    status, said, err = run(
        *("experts", "replay", trace, "--budgets", "50,75", "--policies", "lfu-decay,lru,static-hot,ring"),
        *("--shares", "uniform,shallow,measured", "--route", route, "--json", lines, "--plot", picture),
    )
    assert status == 0, err
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    arms = [line["arm"] for line in found if line["budget"] == 50]
    assert len(arms) == len(set(arms)) == 1 + 3 * 3 * 3 + 1 + 1
    assert {"belady", "lru", "lfu-decay next-gate", "static-hot route measured", "ring", "on demand"} <= set(arms)
    for line in found:
        best = next(one for one in found if one["arm"] == "belady" and one["budget"] == line["budget"])
        assert line["reads"] >= best["reads"] - 1e-9 or "static-hot" in line["arm"]
        assert line["tok_s"] <= best["tok_s"] + 1e-9 or "static-hot" in line["arm"]
        assert 0 <= line["kept"] <= line["hit"] <= 1
        ahead = "next-gate" in line["arm"] or "route" in line["arm"]
        assert (line["hit_off"] is None) == (line["tok_s_off"] is None)
        assert line["hit_off"] is None or (ahead and 0 <= line["hit_off"] <= 1)
        assert line["hit_off"] is not None or not ahead or line["recall"] is None
    assert any(line["hit_off"] for line in found)
    assert all(name in said for name in arms)
    assert imread(picture).shape[0] > 100


def test_the_optimum_has_as_much_memory_as_those_that_it_bounds(tmp_path: Path, run: Run) -> None:
    seed = drawn_seed()
    random.seed(seed)
    out, lines = tmp_path / "routes.npz", tmp_path / "lines.json"
    write_routes(out, recording(200, model=replace(MODEL, blob=3 * 4096, resident=4 * 4096)))

    def reads(*options: str) -> dict[str, float]:
        arguments = ("--budgets", "50", "--policies", "lfu-decay,lru", "--predictors", "none", "--json", lines)
        assert run("experts", "replay", out, *arguments, *options)[0] == 0
        return {found["arm"]: found["reads"] for found in map(json.loads, lines.read_text().splitlines())}

    def fewest(slots: int) -> float:
        script = Script.of(read_routes(out))
        return script.reads_per_token(fewest_reads(script.demands, slots))

    twelve, plain = reads(), reads("--plain")
    assert twelve["belady"] == pytest.approx(fewest(16))  # of 24 experts
    assert plain["belady"] == pytest.approx(fewest(12))
    for found in (twelve, plain):
        assert found["belady"] <= min(found["lfu-decay"], found["lru"])
    assert twelve["lru"] < plain["lru"]


def test_train_shows_what_it_is_worth_beside_what_costs_nothing(trace: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "route.safetensors"
    status, said, _ = run("experts", "train", trace, "--out", out, "--json")
    assert status == 0
    shown = json.loads(said)
    model = read_routes(trace).model
    assert read_route_model(out).model == model
    assert shown["top"] == model.top_k
    assert {name: len(layers) for name, layers in shown["recall"].items()} == dict.fromkeys(
        ("trained", "as_before", "most_frequent"), model.layers
    )
    _, table, _ = run("experts", "train", trace, "--out", out)
    assert table.splitlines()[1].split() == ["layer", "trained", "as", "before", "most", "frequent"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--budgets", "1"), "experts.budget must hold the experts of one layer"),
        (("--budgets", "none"), "--budgets must be numbers above zero"),
        (("--policies", "mru"), "--policies must be of lfu-decay, lru, static-hot, ring"),
        (("--predictors", "route"), "experts.prefetch is route, which needs experts.route"),
        (("--json", "/absent/lines.json", "--budgets", "50"), "cannot be written"),
    ],
)
def test_what_cannot_be_replayed_is_said(trace: Path, run: Run, arguments: tuple[str, ...], reason: str) -> None:
    status, _, err = run("experts", "replay", trace, *arguments)
    assert status == 1
    assert reason in " ".join(err.split())


def test_what_cannot_be_recorded_is_said(model: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    for prompts, reason in (("absent.txt", "cannot be read"), ("empty.txt", "holds no prompt")):
        status, _, err = run("experts", "record", model, "--out", tmp_path / "x", "--prompts", tmp_path / prompts)
        assert status == 1
        assert reason in " ".join(err.split())
