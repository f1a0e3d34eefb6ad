"""The demo's verdicts, and the digits that it shows."""

import io
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from triptych.cli.demo.budgets import Figure, budget_table
from triptych.cli.demo.digits import held_out_digits
from triptych.cli.demo.show import Measured, figures


def test_a_budget_is_kept_up_to_its_limit_and_no_further() -> None:
    assert Figure("f", 10.0, "ms", 10.0).within
    assert not Figure("f", 10.1, "ms", 10.0).within
    assert Figure("f", 42.0, "tok/s", 42.0, at_least=True).within
    assert not Figure("f", 41.9, "tok/s", 42.0, at_least=True).within
    assert Figure("f", 1e9, "s").within


def measured() -> Measured:
    return Measured(
        ready_seconds=26.0,
        first_token_seconds=61.0,
        cluster_bytes=2 * 2**30,
        decode_rates=[20.0, 30.0, 25.0],
        added_milliseconds=[30.0, 4.0, 5.0],
    )


def test_an_installed_demo_is_held_to_the_warm_budgets() -> None:
    kept = {figure.name: figure.within for figure in figures(measured(), 24.0, fresh=False)}
    assert kept == {
        "cluster ready": False,
        "command to first streamed token": False,
        "memory of the whole cluster": True,
        "added to the first token by router and transport": True,
        "transformers' generate": True,
        "decode of one stream": True,
    }


def test_a_fresh_clone_has_eight_minutes_and_a_slower_decode_is_a_missed_budget() -> None:
    kept = {figure.name: figure.within for figure in figures(measured(), 26.0, fresh=True)}
    assert kept["fresh clone to first streamed token"]
    assert not kept["decode of one stream"]


def test_the_table_says_what_was_missed() -> None:
    file = io.StringIO()
    Console(file=file, width=120).print(budget_table(figures(measured(), 26.0, fresh=True)))
    [line] = [line for line in file.getvalue().splitlines() if "decode of one stream" in line]
    assert "25 tok/s" in line
    assert "≥ 26 tok/s" in line
    assert "MISSED" in line


def test_the_held_out_digits_are_297_pictures_of_eight_by_eight() -> None:
    digits = held_out_digits()
    assert len(digits) == 297
    assert {digit.label for digit in digits} == set(range(10))
    assert {Image.open(io.BytesIO(digit.png)).size for digit in digits} == {(8, 8)}
    assert all(len(digit.drawing.splitlines()) == 8 for digit in digits)


def test_a_missing_compiler_is_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from triptych.cli.notes import machine_notes

    monkeypatch.setenv("PATH", str(tmp_path))
    assert [note.split(",")[0] for note in machine_notes()] == ["there is no C++ compiler"]
