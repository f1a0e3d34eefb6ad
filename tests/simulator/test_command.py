"""`triptych simulate`: a table, the seed of the first violation, a transcript."""

from pathlib import Path

import pytest

from triptych.cli.main import main


def run(*arguments: str) -> int | str | None:
    with pytest.raises(SystemExit) as left:
        main(["simulate", *arguments])
    return left.value.code


def test_a_table_of_the_invariants_and_the_totals(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("crashes", "--seeds", "3") == 0
    out = capsys.readouterr().out
    assert "same tokens" in out
    assert "nothing is leaked" in out
    assert "runs       3 of" in out
    assert "crash" in out


def test_the_first_violation_is_named_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "harsh.yaml"
    path.write_text("cluster: {layout: 1D, max_retries: 0}\nfaults: {crash: 30}\n")
    assert run(str(path), "--seeds", "20", "--first-seed", "5") == 1
    out = capsys.readouterr().out
    seed = out.partition("seed ")[2].split()[0]
    assert "violates 'few failures'" in out
    assert run(str(path), "--seed", seed) == 1
    assert f"seed {seed} violates 'few failures'" in capsys.readouterr().out


def test_a_transcript_tells_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("quiet", "--seed", "1", "--transcript") == 0
    out = capsys.readouterr().out
    assert "router -> decode-0" in out
    assert "StepTokens" in out


def test_a_transcript_needs_a_seed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("quiet", "--transcript") == 2
    assert "--seed" in capsys.readouterr().err


def test_an_unknown_scenario_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("nonsense") == 1
    assert "everything" in capsys.readouterr().err
