import pytest
import torch

from tests.support.seeds import drawn_seed
from triptych.kernels import segment_attention


@pytest.mark.parametrize("segments", [(7,), (3, 3, 3), (1, 5, 5, 2, 5), (4, 1)])
def test_rows_see_their_segment_and_no_more(segments: tuple[int, ...]) -> None:
    seed = drawn_seed()
    torch.manual_seed(seed)
    q, k, v = torch.randn(3, sum(segments), 2, 8)
    owner = torch.arange(len(segments)).repeat_interleave(torch.tensor(segments))
    scores = torch.einsum("thd,shd->hts", q, k) * 0.3
    scores = scores.masked_fill(owner[:, None] != owner[None, :], -torch.inf)
    expected = torch.einsum("hts,shd->thd", scores.softmax(-1), v)
    out = torch.full_like(q, torch.nan)
    segment_attention(q, k, v, segments, 0.3, out)
    torch.testing.assert_close(out, expected)


def test_segments_that_are_not_all_rows_are_refused() -> None:
    q = torch.zeros(5, 1, 4)
    with pytest.raises(ValueError, match="5 rows in all, got 4"):
        segment_attention(q, q, q, (2, 2), 1.0, torch.empty_like(q))
