"""Images of a command: one bad span must not fail the step of its neighbours."""

from typing import Any

import pytest

from triptych.core.errors import InvalidArgument
from triptych.core.positions import Grid
from triptych.models.spec import DecoderSpec, LayerSpec, MlpSpec, Norms, NormSpec
from triptych.models.spec.decoder import AttentionSpec
from triptych.stage.v1 import stage_pb2 as pb
from triptych.stages.spans import check_spans, media_of

NORMS = Norms(NormSpec(1e-5))
LAYER = LayerSpec(AttentionSpec(1, 1, 8, None, 1.0), MlpSpec(8), NORMS, NORMS)
SPEC = DecoderSpec(99, 8, (LAYER, LAYER), NormSpec(1e-5), True)
HANDLE: dict[str, Any] = {"content_hash": "x", "rows": 6, "columns": 8, "levels": 2}


def span(start: int, length: int, row: int = 0, grid: tuple[float, ...] | None = None, **handle: Any) -> pb.MediaSpan:
    made = pb.MediaSpan(start=start, length=length, row=row, handle=pb.EmbeddingHandle(**(HANDLE | handle)))
    if grid:
        made.grid.CopyFrom(pb.Grid(time=int(grid[0]), height=int(grid[1]), width=int(grid[2]), interval=grid[3]))
    return made


def test_spans_of_one_image_between_text_pass() -> None:
    spans = (span(0, 2), span(3, 4, 2, (2, 1, 2, 1.5)), span(7, 6, content_hash="y"))
    check_spans(spans, 13, SPEC)
    media = [media_of(each) for each in spans]
    assert [(m.start, m.length, m.row, m.content, m.values) for m in media] == [
        (0, 2, 0, "x", None),
        (3, 4, 2, "x", None),
        (7, 6, 0, "y", None),
    ]
    assert [m.grid for m in media] == [None, Grid(2, 1, 2, 1.5), None]


@pytest.mark.parametrize(
    "spans",
    [
        (span(0, 3), span(2, 2)),
        (span(8, 3),),
        (span(-1, 3),),
        (span(0, 0),),
        (span(0, 7),),
        (span(0, 3, 4),),
        (span(0, 3, -1),),
        (span(0, 3, columns=7),),
        (span(0, 3, levels=3),),
        (span(0, 3, levels=-1),),
        (span(0, 3, content_hash=""),),
        (span(0, 4, 0, (1, 2, 3, 1)),),
        (span(0, 4, 0, (-2, -2, 1, 1)),),
        (span(0, 4, 0, (4, 1, 1, float("nan"))),),
        (span(0, 4, 0, (4, 1, 1, float("inf"))),),
        (span(0, 4, 0, (4, 1, 1, -1.0)),),
        (span(0, 4, 0, (4, 1, 1, 1e12)),),
    ],
)
def test_spans_that_a_step_would_stumble_over_are_refused(spans: tuple[pb.MediaSpan, ...]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_spans(spans, 10, SPEC)
    assert caught.value.field == "media"
