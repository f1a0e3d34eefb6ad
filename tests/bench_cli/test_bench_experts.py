"""`triptych bench experts`: from a tiny mixture to lines and tables, and what targets make of them."""

import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.support.recordings import MODEL, foreseeing, recording
from tests.support.seeds import drawn_seed
from triptych.cli.bench.experts import run as run_module
from triptych.cli.bench.experts.arms import DEFAULT, REGROUPED, Cached, OnDemand, Resident, offload, parse_arms
from triptych.cli.bench.experts.figures import Beside, Failed, Figures, computing_seconds, figures
from triptych.cli.bench.experts.process import apart, own_peak_bytes
from triptych.cli.bench.experts.replaying import Replay, as_served, replayed
from triptych.cli.bench.experts.restoring import put_back
from triptych.cli.bench.experts.serving import Served
from triptych.cli.bench.experts.targets import targets
from triptych.cli.bench.experts.work import PROMPT, Work
from triptych.cli.bench.numbers import integers
from triptych.core.errors import DeadlineExceeded, Internal, InvalidArgument
from triptych.engine.ranks.replica import Replica
from triptych.engine.ranks.testing import RankThreads
from triptych.experts.residency import Counts
from triptych.experts.settings import Bytes, Fraction, OffloadSettings
from triptych.experts.traces import GIVEN_UP, Device, Foreseen, Routes, Script, TracedModel, replay
from triptych.experts.traces.arms import Arms

Run = Callable[..., tuple[int, str, str]]


def here(seconds: float, function: Callable[..., object], *args: object, **kwargs: object) -> object:
    return function(*args, **kwargs)


def test_every_arm_answers_alike_and_as_replay_foretells(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("synthetic.folder", "conversion"):  # not the variable: kernels are compiled into the cache, too
        monkeypatch.setattr(f"triptych.models.{module}.cache_directory", lambda: tmp_path)
    monkeypatch.setattr(run_module, "apart", here)
    sizes = ("--texts", "2", "--out", "12", "--rounds", "1", "--threads", "1", "--json", tmp_path / "lines.jsonl")
    status, out, err = run("bench", "experts", "--model", "synthetic:2MB", "--budgets", "50,1MB", *sizes)
    assert status == 0, err
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert lines[0]["what"] == "run"
    assert lines[0]["expert_bytes"] == 64 * lines[0]["blob_bytes"]
    arms = [line for line in lines if line["what"] == "arm"]
    kept = ["lru", "lfu-decay", "static-hot", "ring", DEFAULT, "lfu-decay+route"]
    assert [arm["arm"] for arm in arms] == ["resident", "load-on-demand", *kept, *kept]
    assert [arm["budget"] for arm in arms] == ["", "", *["50%"] * 6, *["1MB"] * 6]
    for arm in arms:
        assert arm["equal"] is arm["as_one_rank"] is True, arm
        assert 0 <= arm["hit"] <= 1
        assert arm["tok_s"] > 0
        if arm["prefetch"] == "none":
            assert arm["first_hit"] == pytest.approx(arm["replayed_hit"], abs=1e-9)
            assert arm["wasted_bytes"] == 0
    resident, demanded, *cached = arms
    assert (resident["reads_per_token"], demanded["experts_saved"]) == (0, 0.75)
    most = max(1 / (1 / arm["tok_s"] - arm["stall_ms_per_token"] / 1e3) for arm in arms)
    assert all(0 < arm["bound"] <= 1.001 * most for arm in cached)
    assert all((arm["recall"] is None) == (arm["precision"] is None) for arm in arms)
    assert all(arm["recall"] is None for arm in arms if arm["prefetch"] in ("none", ""))
    assert [line["what"] for line in lines[len(arms) + 1 :]] == ["target"] * (len(lines) - len(arms) - 1)
    assert not list(tmp_path.rglob("*.warm"))
    assert "read past the page cache" in out or "through the page cache" in out


def test_ranks_that_divide_the_experts_answer_as_one_rank(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("synthetic.folder", "conversion"):
        monkeypatch.setattr(f"triptych.models.{module}.cache_directory", lambda: tmp_path)
    monkeypatch.setattr(run_module, "apart", here)
    monkeypatch.setattr("triptych.engine.engine.Replica", partial(Replica, start=RankThreads))
    sizes = ("--texts", "1", "--out", "6", "--rounds", "1", "--threads", "2", "--json", tmp_path / "lines.jsonl")
    arms = (
        "--arms",
        "resident,load-on-demand,static-hot",
        "--budgets",
        "50",
        "--expert-parallel",
        "2",
        "--dtype",
        "float32",
    )
    status, _, err = run("bench", "experts", "--model", "synthetic:2MB", *sizes, *arms)
    assert status == 0, err
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["what"] == "arm"]
    names = ["resident", "resident", "load-on-demand", "static-hot"]
    assert [(arm["arm"], arm["ranks"]) for arm in found] == list(zip(names, (1, 2, 2, 2), strict=True))
    assert all(arm["equal"] and arm["as_one_rank"] for arm in found)
    assert [arm["reads_per_token"] > 0 for arm in found[:3]] == [False, False, True]
    assert [arm["experts_saved"] for arm in found] == [0, 0, 0.75, 0.5]
    assert all((arm["replayed_hit"], arm["allowed_rss"]) == (None, 0) for arm in found)
    assert not list(tmp_path.rglob("*.warm"))


@pytest.mark.parametrize("before", [None, b"what an engine remembers"])
def test_what_users_engines_remember_is_put_back_whatever_happens(before: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "pack.experts.rank0.warm"
    if before is not None:
        path.write_bytes(before)

    def arm(written: bytes | None) -> None:
        path.unlink(missing_ok=True) if written is None else path.write_bytes(written)
        raise Internal("an arm")

    for written in (b"of an arm", None):
        with pytest.raises(Internal, match="an arm"), put_back(path):
            arm(written)
        assert (path.read_bytes() if path.exists() else None) == before
    assert len(list(tmp_path.iterdir())) == (before is not None)


def test_arms_are_chosen_by_name_and_budgets_in_percent_or_bytes() -> None:
    arms = parse_arms("lfu-decay,resident,shallow", "10,1.5GB")
    assert [arm.name for arm in arms] == ["resident", "lfu-decay", "shallow", "lfu-decay", "shallow"]
    assert [arm.budget for arm in arms if isinstance(arm, Cached)] == [
        *[Fraction(0.1)] * 2,
        *[Bytes(1_500_000_000)] * 2,
    ]
    for names, budgets in (("best", "10"), ("lru", "0"), ("lru", "most")):
        with pytest.raises(InvalidArgument):
            parse_arms(names, budgets)


def test_answers_that_take_turns_are_those_of_a_batch(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("synthetic.folder", "conversion"):
        monkeypatch.setattr(f"triptych.models.{module}.cache_directory", lambda: tmp_path)
    monkeypatch.setattr(run_module, "apart", here)
    sizes = ("--texts", "4", "--batch", "4", "--out", "12", "--rounds", "1", "--threads", "1")
    arms = ("--arms", f"resident,lru,{REGROUPED}", "--budgets", "50", "--json", tmp_path / "lines.jsonl")
    status, _, err = run("bench", "experts", "--model", "synthetic:2MB", *sizes, *arms)
    assert status == 0, err
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    together, turns = (line for line in lines if line["what"] == "arm" and line["policy"] == "lru")
    assert turns["arm"] == REGROUPED
    assert turns["as_one_rank"] is together["as_one_rank"] is True
    assert together["replayed_hit"] == pytest.approx(together["first_hit"], abs=1e-9)
    assert turns["replayed_hit"] is turns["bound"] is None  # nobody has recorded those steps


def test_only_that_arm_has_answers_take_turns() -> None:
    arms = parse_arms(f"lru,{REGROUPED}", "50")
    assert [settings.regroup for arm in arms if (settings := offload(arm, 100, None))] == [False, True]


def test_none_kept_is_one_layer_of_slots_that_no_layer_keeps() -> None:
    assert offload(Resident(), 100, None) is None
    settings = offload(OnDemand(), 100, None)
    assert settings is not None
    assert (settings.budget, settings.policy, settings.prefetch, settings.warm) == (Bytes(100), "ring", "none", False)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_recording_of_all_prompts_becomes_the_steps_of_the_arms(batch: int) -> None:
    seed = drawn_seed()
    sequences, answered, random = 5, 4, np.random.default_rng(seed)
    positions = PROMPT + answered - 1
    order = random.permutation(sequences * positions)
    routes = _routes(
        np.repeat(np.arange(sequences), positions)[order], np.tile(np.arange(positions), sequences)[order]
    )
    served = as_served(routes, Work(((0,) * PROMPT,) * sequences, answered, batch))
    groups = [range(first, min(first + batch, sequences)) for first in range(0, sequences, batch)]
    expected = [
        step
        for group in groups
        for step in (
            [(s, p) for s in group for p in range(PROMPT)],
            *([(s, p) for s in group] for p in range(PROMPT, positions)),
        )
    ]
    found = [
        list(zip(served.sequences[rows].tolist(), served.positions[rows].tolist(), strict=True))
        for rows in served.rows()
    ]
    assert found == expected
    assert (served.ids[0, :, 0] == served.sequences * 100 + served.positions).all()


def _routes(sequences: np.ndarray, positions: np.ndarray) -> Routes:
    rows = len(sequences)
    ids = np.broadcast_to((sequences * 100 + positions)[None, :, None], (2, rows, 1)).astype(np.uint16)
    return Routes(
        TracedModel("m", "", 2, 1000, 1, 4, 4096, 4096),
        np.zeros(1, np.int32),
        np.zeros((1, 4), np.float16),
        np.array([0, rows]),
        np.zeros(rows, np.int32),
        sequences.astype(np.int32),
        positions.astype(np.int32),
        ids,
        Foreseen(np.zeros((1, rows, 1), np.uint16), np.zeros((1, rows, 1), np.float16)),
    )


ARM = Figures(
    arm="lfu-decay", policy="lfu-decay", prefetch="none", shares="uniform", budget="50%", batch=1, tok_s=50.0,
    hit=0.9, recall=None, precision=None, wasted_bytes=0.0, reads_per_token=1.0, read_mb_per_token=1.0,
    stall_ms_per_token=1.0, peak_rss=90, allowed_rss=100, experts_saved=0.5, rss_saved=0.48, equal=True,
    first_hit=0.8, replayed_hit=0.79, bound=60.0, switched_off=False, rounds=3, as_one_rank=True, ranks=1,
)  # fmt: skip
RESIDENT = replace(ARM, arm="resident", budget="", tok_s=100.0, allowed_rss=0, replayed_hit=None, bound=None)
ON_DEMAND = replace(ARM, arm="load-on-demand", budget="", tok_s=25.0)
OURS = replace(ARM, arm=DEFAULT, tok_s=81.0)


def test_targets_of_a_model_of_text() -> None:
    least = replace(OURS, budget="10%", tok_s=30.0, experts_saved=0.9, rss_saved=0.893, peak_rss=101)
    other = replace(least, arm="lfu-decay+route", experts_saved=0.901, rss_saved=0.895)
    arms = [RESIDENT, ON_DEMAND, ARM, OURS, least, other]
    found = {target.name: target for target in targets(arms, synthetic=False)}
    assert [(round(target.value, 3), target.limit, target.reached) for target in found.values()] == [
        (3.24, 3.0, True),
        (0.81, 0.8, True),
        (0.9, 0.9, True),
        (0.893, 0.9, False),
        (0.901, 0.9, True),
        (0.895, 0.9, False),
        (1.01, 1.0, False),
        (6.0, 6, True),
        (0.01, 0.02, True),
    ]


def test_targets_of_the_synthetic_model_know_the_bound() -> None:
    ours = replace(OURS, budget="1.5GB", tok_s=48.0, equal=False)
    failed = Failed("lru", "1.5GB", "no room")
    found = targets([RESIDENT, ON_DEMAND, ours, failed], synthetic=True)
    assert [(round(target.value, 3), target.limit, target.reached) for target in found] == [
        (1.92, 2.0, False),
        (0.8, 0.85, False),
        (0.9, 1.0, True),
        (2.0, 4, False),  # one is not equal, one has not even run
        (0.01, 0.02, True),
    ]


def test_no_arm_computes_faster_than_the_bound_has_it() -> None:
    work = Work(((0,) * PROMPT,) * 2, 11, 1)
    assert work.answered == 22
    then = Counts(demanded=10, hits=8, misses=2, reads=2, stall_ns=400_000_000)
    resident = Served(((0,),), "", 2.2, None, None, 0, 100)
    faster = replace(resident, seconds=2.0, first=then, then=then, pool_bytes=50)
    assert computing_seconds([resident], work) == pytest.approx(0.1)
    least = computing_seconds([replace(faster, seconds=9.0), faster, replace(faster, seconds=1.0)], work)
    assert least == pytest.approx(1.6 / 22)
    arm, beside = (
        Cached("lru", "lru", "none", "uniform", Fraction(0.5), "50%"),
        Beside(100, [resident], 1e6, [], least, 90),
    )
    line = figures(arm, 1, [faster], work, Replay((0.8,), 0.0), beside)
    assert line.bound == pytest.approx(22 / 1.6)
    assert figures(arm, 1, [faster], work, Replay((0.8,), 1e6), beside).bound == pytest.approx(1)
    assert (line.recall, line.precision) == (None, None)
    ahead = replace(faster, then=replace(then, covered=1, misses=1, prefetched=4, used=1))
    line = figures(arm, 1, [ahead], work, Replay((0.8,), 0.0), beside)
    assert (line.recall, line.precision) == (0.5, 0.25)


def test_memory_is_compared_with_the_resident_arm_less_the_experts_that_it_maps() -> None:
    work = Work(((0,) * PROMPT,), 11, 1)
    resident = [Served(((0,),), "", 1.0, None, None, 0, peak) for peak in (210, 200, 230)]
    then = Counts(demanded=1)
    rounds = [Served(((0,),), "", 1.0, then, then, 50, peak) for peak in (163, 162, 190)]
    arm, beside = Cached("lru", "lru", "none", "uniform", Fraction(0.5), "50%"), Beside(100, resident, 1e6, [], 1, 94)
    line = figures(arm, 1, rounds, work, Replay((0.0,) * 3, 0.0), beside)
    assert (line.peak_rss, line.allowed_rss) == (190, 200 - 94 + 55)
    assert (line.experts_saved, line.rss_saved) == (0.5, (210 - 163) / 94)
    for alone in (
        figures(arm, 1, rounds, work, Replay((0.0,) * 3, 0.0), replace(beside, resident=[])),
        figures(arm, 2, rounds, work, None, beside),
        figures(Resident(), 1, resident, work, None, beside),
    ):
        assert (alone.allowed_rss, alone.rss_saved) == (0, None)


def test_every_round_is_compared_with_its_own_replay_and_the_farthest_is_shown() -> None:
    work = Work(((0,) * PROMPT,), 11, 1)
    rounds = [
        Served(((0,),), "", seconds, Counts(demanded=100, hits=hits), Counts(demanded=1), 50, 100)
        for seconds, hits in ((1.0, 86), (2.0, 76), (3.0, 86))
    ]
    arm, beside = Cached("lru", "lru", "none", "uniform", Fraction(0.5), "50%"), Beside(100, [], 1e6, [], 1.0, 90)
    line = figures(arm, 1, rounds, work, Replay((0.86, 0.763, 0.855), 0.0), beside)
    assert (line.first_hit, line.replayed_hit) == (0.86, 0.855)
    line = figures(arm, 1, rounds, work, None, beside)
    assert (line.first_hit, line.replayed_hit) == (0.86, None)


def test_reading_in_advance_is_replayed_as_a_round_turned_it_on_and_off() -> None:
    random.seed(60)
    script = Script.of(foreseeing(recording(60)))
    work = Work(((0,) * PROMPT,), 60, 1)
    settings = OffloadSettings(budget=Bytes(16 * MODEL.blob), readers=1, speculation=0.3)
    first = [Counts(turns=turns) for turns in ((), GIVEN_UP, ())]
    rounds = [Served((), "", 1.0, counts, counts, 50, 100) for counts in first]
    played = replayed(settings, script, work, None, Device(1e9, 0.01), rounds).hits
    assert played[0] == played[2] > played[1]
    one = Arms(script, None, ((0.0,) * MODEL.experts,) * MODEL.layers).of(settings)
    assert played[1] == replay(script, one, Device(1e9, 0.01), GIVEN_UP).counts.hit_ratio


def test_without_a_resident_arm_there_is_less_to_say() -> None:
    arm = replace(OURS, equal=None, allowed_rss=0, bound=None)
    assert [target.limit for target in targets([arm], synthetic=False)] == [0.02]


def test_a_function_runs_in_a_process_of_its_own_and_its_error_comes_back() -> None:
    assert apart(60, os.getpid) != os.getpid()
    with pytest.raises(InvalidArgument, match="whole numbers"):
        apart(60, integers, "many", "texts")
    with pytest.raises(Internal, match="exit code 3"):
        apart(60, os._exit, 3)
    with pytest.raises(DeadlineExceeded, match="longer than 0 s"):
        apart(0.01, os.getpid)


def test_the_peak_of_a_process_is_its_own() -> None:
    big = bytearray(os.urandom(1 << 20)) * 256
    assert own_peak_bytes() > len(big)
    assert apart(60, own_peak_bytes) < own_peak_bytes() - len(big) // 2
