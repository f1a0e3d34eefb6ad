import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.config.layout import MAX_WORKERS, Layout, Serves, resolve_layout
from triptych.core.errors import FailedPrecondition, InvalidArgument


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        ("1E1P1D", Layout(1, 1, 1)),
        ("2E1P3D", Layout(2, 1, 3)),
        ("1P1D", Layout(0, 1, 1)),
        ("1E1D", Layout(1, 0, 1)),
        ("1D", Layout(0, 0, 1)),
        ("12d", Layout(0, 0, 12)),
        ("3E", Layout(3, 0, 0)),
    ],
)
def test_a_layout_counts_the_workers_of_each_stage(text: str, layout: Layout) -> None:
    assert Layout.parse(text) == layout
    assert layout.total == layout.encode + layout.prefill + layout.decode


@given(st.integers(0, MAX_WORKERS), st.integers(0, MAX_WORKERS), st.integers(1, MAX_WORKERS))
def test_a_layout_reads_what_it_writes(encode: int, prefill: int, decode: int) -> None:
    layout = Layout(encode, prefill, decode)
    assert Layout.parse(str(layout)) == layout


@pytest.mark.parametrize("text", ["", "1E1P", "1P", "D", "0D", "1D1P", "1D ", "-1D", "1.5D", "1X1D", "1D1D", "auto"])
def test_any_other_text_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"at least one of decode: 1E1P1D") as caught:
        Layout.parse(text)
    assert caught.value.field == "layout"


@pytest.mark.parametrize("text", ["1025D", "99999999999999999999E1D"])
def test_too_many_workers_are_refused_with_the_limit(text: str) -> None:
    with pytest.raises(InvalidArgument, match="at most 1024"):
        Layout.parse(text)


def test_auto_is_the_smallest_cluster_that_serves_the_model() -> None:
    assert str(resolve_layout(None, "texts")) == "1D"
    assert str(resolve_layout(None, "images")) == "1E1D"
    assert str(resolve_layout(None, "vectors")) == "1E"


def test_encode_workers_for_a_text_model_are_refused_with_the_layout_to_use() -> None:
    with pytest.raises(FailedPrecondition, match="use 2P3D"):
        resolve_layout(Layout(1, 2, 3), "texts")
    assert resolve_layout(Layout(0, 2, 3), "texts") == Layout(0, 2, 3)
    assert resolve_layout(Layout(0, 2, 3), "images") == Layout(0, 2, 3)


@pytest.mark.parametrize(
    ("text", "serves", "said"),
    [
        ("2E1P1D", "vectors", "has encode and prefill and decode workers, and the model gives embeddings.*use 2E"),
        ("1D", "vectors", "use 1E"),
        ("2E", "texts", "has encode workers, and the model generates.*use 1D"),
        ("2E", "images", "use 1E1D"),
    ],
)
def test_a_layout_that_the_model_cannot_fill_is_refused(text: str, serves: Serves, said: str) -> None:
    with pytest.raises(FailedPrecondition, match=said):
        resolve_layout(Layout.parse(text), serves)
    assert resolve_layout(Layout(2, 0, 0), "vectors") == Layout(2, 0, 0)
