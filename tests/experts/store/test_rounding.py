"""Rounded experts are off by at most half a level of their row, and are expanded into the exact layout."""

from pathlib import Path

import pytest
import torch
from random_experts import draw, make, same

from triptych.core.errors import InvalidArgument
from triptych.experts.blob import BlobLayout
from triptych.experts.store import expand, open_store, read_blob, rounded, rounded_layout
from triptych.kernels import DenseWeight, Int8Weight


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_no_value_is_off_by_more_than_half_a_level(dtype: str, bias: bool) -> None:
    expert = draw(dtype, 61, 37, bias=bias)
    layout = BlobLayout.of(expert)
    blob = torch.randint(0, 256, (layout.nbytes,), dtype=torch.uint8)

    expand(rounded(expert), layout, blob)

    for exact, coarse in zip(expert, layout.view(blob), strict=True):
        assert isinstance(exact.weight, DenseWeight)
        assert isinstance(coarse.weight, DenseWeight)
        values = exact.weight.values.float()
        level = values.abs().amax(1, keepdim=True) / 127
        ulp = torch.finfo(exact.weight.values.dtype).eps * values.abs().amax(1, keepdim=True)
        assert ((coarse.weight.values.float() - values).abs() <= level * 0.5001 + ulp).all()
        assert (exact.bias is None) == (coarse.bias is None)
        assert exact.bias is None or coarse.bias is None or torch.equal(exact.bias, coarse.bias)


def test_a_row_of_zeros_stays_one() -> None:
    expert = draw("float32")
    assert isinstance(expert[0].weight, DenseWeight)
    expert[0].weight.values[3] = 0

    coarse = rounded(expert)[0].weight

    assert isinstance(coarse, Int8Weight)
    assert coarse.scales[3] == 0
    assert not coarse.values[0, :, 3].any()


def test_rounded_experts_take_half_of_the_bytes_and_their_layout_needs_no_expert(tmp_path: Path) -> None:
    made = make(tmp_path / "pack", ("bfloat16", 2))
    wide = BlobLayout.of(draw("bfloat16", 512, 256))

    assert rounded_layout(wide).nbytes < 0.52 * wide.nbytes
    assert rounded_layout(made.store.layers[0].layout) == BlobLayout.of(rounded(made.experts[0, 1]))


def test_a_file_of_them_is_as_any_other(tmp_path: Path) -> None:
    coarse = make(tmp_path / "pack", ("int8", 2))

    store = open_store(coarse.path)

    assert store.rounded is None
    assert same(store.layers[0].layout.view(read_blob(store, 0, 1)), coarse.experts[0, 1])


@pytest.mark.parametrize("form", ["int8", "Q4_0"])
def test_what_is_rounded_already_is_refused(form: str) -> None:
    with pytest.raises(InvalidArgument, match="rounded already") as refused:
        rounded(draw(form))
    assert refused.value.field == "experts.lossy"
