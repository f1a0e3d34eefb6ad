"""The context that is served: what is made for each of its positions, and its last one."""

from pathlib import Path

import pytest

from triptych.engine import Engine
from triptych.engine.loading import convert_weights
from triptych.models import rotary_tables
from triptych.models.adapters import NO_FOLDERS
from triptych.models.files import ModelFiles
from triptych.models.progress import SILENT
from triptych.models.rotary import RotaryTable, rotary_table
from triptych.models.size import kv_elements


@pytest.fixture
def tabulated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions of every table of angles that is made."""
    made: list[int] = []

    def count(*args: object, **settings: object) -> RotaryTable:
        table = rotary_table(*args, **settings)  # type: ignore[arg-type]
        made.append(len(table.cos))
        return table

    monkeypatch.setattr(rotary_tables, "rotary_table", count)
    return made


def test_angles_are_tabulated_for_the_context_that_was_asked_for(llama: Path, tabulated: list[int]) -> None:
    engine = Engine(str(llama), dtype="float32", context_length=40, kv_cache_memory=1 << 20)
    assert tabulated == [40]
    assert len(engine.generate(list(range(4, 34)))[0].token_ids) == 10


def test_angles_are_tabulated_for_what_the_pool_holds(llama: Path, tabulated: list[int]) -> None:
    first = Engine(str(llama), dtype="float32", kv_cache_memory=1 << 20)
    whole, token = first.spec.context_length, kv_elements(first.spec.decoder) * 4
    engine = Engine(str(llama), dtype="float32", kv_cache_memory=3 * 16 * token + 5 * token)
    assert tabulated == [whole, 3 * 16 + 5]
    assert engine.core.capacity == 3 * 16


def test_whoever_only_converts_tabulates_nothing(llama: Path, tabulated: list[int]) -> None:
    convert_weights(ModelFiles("m", llama, "safetensors"), "float32", "none", NO_FOLDERS, progress=SILENT)
    assert tabulated == [1]
