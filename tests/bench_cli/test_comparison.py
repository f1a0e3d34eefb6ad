"""The tables of tests/bench/compare.py, from lines as contestants print them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[1] / "bench" / "compare.py"


def line(number: int, contestant: str, **fields: Any) -> dict[str, Any]:
    return {"round": number, "contestant": contestant, "peer": contestant, **fields}


def table(tmp_path: Path, lines: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The cells of each row of a table, by its first cell."""
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--from", str(results)], capture_output=True, text=True, check=True
    )
    (tmp_path / "page.md").write_text(done.stdout)
    cells = (
        [cell.strip() for cell in row.strip("|").split("|")] for row in done.stdout.splitlines() if row[:1] == "|"
    )
    return {first: rest for first, *rest in cells}


def test_the_ratio_is_the_median_of_the_rounds_and_not_that_of_the_medians(tmp_path: Path) -> None:
    rates = [(100.0, 50.0), (300.0, 100.0), (90.0, 60.0)]
    lines = [
        line(number, name, what="decode", batch=1, tok_s=rate)
        for number, pair in enumerate(rates, 1)
        for name, rate in zip(("triptych-bf16", "vllm"), pair, strict=True)
    ]
    found = table(tmp_path, lines)["bf16 decode, batch 1, against vLLM"]
    assert found == ["100 (triptych-bf16)", "60 (vllm)", "2.00", "≥ 1.9", "yes"]


def test_the_better_of_each_side_counts_and_is_named(tmp_path: Path) -> None:
    rates = {"triptych-gguf": 700.0, "triptych-int8": 800.0, "openvino": 727.0}
    rows = table(tmp_path, [line(1, name, what="decode", batch=8, tok_s=rate) for name, rate in rates.items()])
    assert rows["Q4_1 or int8 decode, batch 8, against OpenVINO"] == [
        "800 (triptych-int8)", "727 (openvino)", "1.10", "≥ 1.2", "**no**",
    ]  # fmt: skip


def test_a_contestant_that_is_missing_leaves_cells_empty_and_a_note(tmp_path: Path) -> None:
    lines = [line(1, "triptych-bf16", what="prefill", tokens=1500, tok_s=900.0, ceiling=1000.0)]
    rows = table(tmp_path, [*lines, line(1, "vllm", missing="not installed")])
    assert rows["bf16 prefill, against vLLM"] == ["900 (triptych-bf16)", "", "", "≥ 1", ""]
    assert rows["share of the ceiling, bf16 prefill"][2:] == ["0.90", "≥ 0.85", "yes"]
    assert "* vllm: not installed" in (tmp_path / "page.md").read_text()


def test_memory_and_the_cluster_have_rows_of_their_own(tmp_path: Path) -> None:
    lines = [
        line(1, "triptych-bf16", what="memory", peak_bytes=900e6, weights_bytes=270e6, kv_bytes=230e6),
        line(1, "triptych-bf16", what="decode", batch=8, tok_s=500.0, ceiling=900.0),
        line(1, "triptych-cluster", what="serve", load="closed", clients=8, tok_s=460.0),
        line(1, "triptych-bf16", what="load", seconds=1.5),
    ]
    rows = table(tmp_path, lines)
    memory = rows["peak memory, bf16, against 1.3 x (weights + KV) + 400 MB"]
    assert memory == ["900 (triptych-bf16)", "1050 (triptych-bf16)", "0.86", "≤ 1", "yes"]
    cluster = rows["colocated cluster with 8 gRPC clients, against the offline engine, batch 8"]
    assert cluster == ["460 (triptych-cluster)", "500 (triptych-bf16)", "0.92", "≥ 0.9", "yes"]


def test_a_load_may_take_three_seconds(tmp_path: Path) -> None:
    lines = [line(n, "triptych-load", what="load", seconds=2.7 + n / 10, allowed_seconds=3.0) for n in (1, 2, 3)]
    [cells] = [cells for title, cells in table(tmp_path, lines).items() if title.startswith("load builtin:smollm2")]
    assert cells == ["2.9 (triptych-load)", "3 (triptych-load)", "0.97", "≤ 1", "yes"]
