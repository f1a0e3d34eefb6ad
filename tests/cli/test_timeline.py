from triptych.cli.timeline import render_timeline
from triptych.core.usage import Span


def test_spans_are_drawn_to_scale_and_in_order() -> None:
    spans = [
        Span("decode", "decode-0", 30_000, 10_000),
        Span("queue", "", 0, 1),
        Span("prefill", "prefill-0", 10_000, 20_000),
    ]
    chart = render_timeline(spans, width=7 + 9 + 25 + 40)
    assert chart.splitlines() == [
        "stage    worker      start ms        ms",
        "queue    router           0.0       0.0  ▏",
        "prefill  prefill-0       10.0      20.0            ████████████████████",
        "decode   decode-0        30.0      10.0                                ██████████",
    ]


def test_no_line_is_wider_than_asked() -> None:
    spans = [Span("kv transfer", "prefill-12", start, 77) for start in range(0, 1000, 77)]
    for width in (70, 100, 200):
        assert max(map(len, render_timeline(spans, width=width).splitlines())) <= width


def test_nothing_and_instants_can_be_drawn() -> None:
    assert render_timeline([]) == ""
    assert render_timeline([Span("queue", "", 0, 0)]).endswith("▏")
    assert render_timeline([Span("decode", "d", 0, 100), Span("free", "d", 100, 0)]).endswith("▏")
