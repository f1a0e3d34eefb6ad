"""Which element type a model is computed in."""

from typing import Any

import pytest
import torch

from triptych.core.errors import InvalidArgument
from triptych.engine.dtypes import choose_dtype, dtype_name


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_type_that_is_asked_for_is_taken(name: str) -> None:
    assert dtype_name(choose_dtype(name, {"dtype": "float16"})) == name


@pytest.mark.parametrize(
    ("config", "native", "expected"),
    [
        ({"dtype": "float32"}, True, torch.float32),
        ({"torch_dtype": "float32"}, True, torch.float32),
        ({"dtype": "bfloat16"}, True, torch.bfloat16),
        ({"torch_dtype": "float16"}, True, torch.bfloat16),
        ({}, True, torch.bfloat16),
        ({"dtype": "bfloat16"}, False, torch.float32),
        ({}, False, torch.float32),
    ],
)
def test_auto_takes_what_the_checkpoint_and_the_cpu_share(
    monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], native: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: native)
    assert choose_dtype("auto", config) is expected


def test_an_accelerator_needs_no_such_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert choose_dtype("auto", {"dtype": "bfloat16"}, "cuda") is torch.bfloat16


def test_other_types_are_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="dtype must be auto, float32 or bfloat16, got 'int4'") as caught:
        choose_dtype("int4", {})
    assert caught.value.field == "dtype"
