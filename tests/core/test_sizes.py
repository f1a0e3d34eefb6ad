import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.core.sizes import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (5, 5),
        ("5", 5),
        ("512MiB", 512 * 2**20),
        ("512 mib", 512 * 2**20),
        ("20MB", 20_000_000),
        ("1.5 GiB", 3 * 2**29),
        ("0.125KiB", 128),
        ("1tib", 2**40),
        ("7B", 7),
    ],
)
def test_a_size_is_a_number_or_a_text_with_a_unit(text: int | str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("value", ["", "MiB", "12 parsecs", "1e9", "-1MiB", "1 2", True, 1.5, None, "1GiBB"])
def test_anything_else_is_refused_with_examples(value: object) -> None:
    with pytest.raises(ValueError, match="such as 512MiB"):
        parse_bytes(value)


@given(st.integers(0, 2**50))
def test_a_size_reads_what_it_writes(size: int) -> None:
    assert parse_bytes(format_bytes(size)) == size
