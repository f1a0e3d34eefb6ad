"""The kernel draws what the reference draws."""

from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from triptych.kernels.native import team
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.sampling import MAX_VOCABULARY, DrawToken, accepts
from triptych.kernels.sampling import draw_token

REFERENCE = draw_token.implementation("reference")
LAST = 1 - 2**-53
FILTERS = [
    (0, 1.0, 0.0),
    (1, 1.0, 0.0),
    (50, 1.0, 0.0),
    (3000, 1.0, 0.0),
    (0, 0.1, 0.0),
    (0, 0.9, 0.0),
    (0, 0.999999, 0.0),
    (0, 1.0, 0.05),
    (50, 0.9, 0.0),
    (50, 0.9, 0.1),
    (0, 0.9, 0.02),
    (700, 1.0, 0.01),
    (2**31 - 1, 0.5, 1.0),
]


@dataclass(slots=True)
class Rows:
    """Arguments of the op."""

    logits: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    u: Tensor
    out: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.out = torch.full((len(self.logits),), -1)

    @classmethod
    def alike(cls, logits: Tensor, temperature: float, filters: tuple[int, float, float], u: Tensor) -> "Rows":
        """Rows of the same filters."""

        def all_of(value: float) -> Tensor:
            return torch.full((len(logits),), value, dtype=torch.float64)

        return cls(logits, all_of(temperature), all_of(filters[0]).long(), all_of(filters[1]), all_of(filters[2]), u)

    def drawn(self, isa: Isa) -> Tensor:
        """What the kernel draws."""
        assert accepts(*self.arguments)
        DrawToken(isa)(*self.arguments)
        return self.out.clone()

    def expected(self) -> Tensor:
        """What the reference draws."""
        REFERENCE(*self.arguments)
        return self.out.clone()

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Of the op, in their order."""
        return self.logits, self.temperature, self.top_k, self.top_p, self.min_p, self.u, self.out


def numbers(count: int) -> Tensor:
    u = torch.rand(count, dtype=torch.float64)
    u[0], u[-1] = 1e-6, 1 - 1e-6  # nearer to the ends it is rounding that decides
    return u


def logits_of(kind: str, rows: int, size: int) -> Tensor:
    logits = torch.randn(rows, size)
    match kind:
        case "peaked":
            logits = 4 * logits.abs().square() - 10
        case "flat":
            logits /= 100
        case "tied":
            logits = (2 * logits).bfloat16().float()
        case "equal":
            logits = torch.full_like(logits, -3.5)
        case "with impossible tokens":
            impossible = torch.rand(rows, size) < 0.5
            logits[impossible.index_fill_(1, torch.randint(size, (1,)), False)] = -torch.inf
        case "one possible token":
            chosen = torch.randint(size, (rows, 1))
            logits = torch.full_like(logits, -torch.inf).scatter_(1, chosen, logits)
        case "far apart":
            logits = 1e4 * logits
        case "an outlier":
            logits[:, size // 2] = 30.0
    return logits


KINDS = ["usual", "peaked", "flat", "tied", "equal", "with impossible tokens", "one possible token", "far apart"]


@pytest.mark.parametrize("kind", [*KINDS, "an outlier"])
@pytest.mark.parametrize("filters", FILTERS)
def test_draws_as_the_reference(isa: Isa, filters: tuple[int, float, float], kind: str) -> None:
    for size in (5000, 1024, 33, 2, 1):
        for temperature in (1.0, 0.3, 5.0):
            rows = Rows.alike(logits_of(kind, 5, size), temperature, filters, numbers(5))
            assert torch.equal(rows.drawn(isa), rows.expected()), (size, temperature)


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1e-300, 1e-30, 1e-3, 100.0])
@pytest.mark.parametrize("filters", FILTERS)
def test_any_temperature(isa: Isa, filters: tuple[int, float, float], temperature: float) -> None:
    logits = torch.cat([logits_of("usual", 3, 3001), logits_of("far apart", 3, 3001), logits_of("tied", 3, 3001)])
    rows = Rows.alike(logits, temperature, filters, numbers(9))
    assert torch.equal(rows.drawn(isa), rows.expected())


def test_rows_of_all_sorts_in_one_batch_whatever_the_threads(isa: Isa, threads: int) -> None:
    logits = torch.cat([logits_of(kind, len(FILTERS), 49152) for kind in ("usual", "peaked", "tied")])
    top_k, top_p, min_p = zip(*FILTERS * 3, strict=True)
    temperature = torch.rand(len(logits), dtype=torch.float64) + 0.2
    temperature[::7] = 0.0
    rows = Rows(
        logits,
        temperature,
        torch.tensor(top_k),
        torch.tensor(top_p, dtype=torch.float64),
        torch.tensor(min_p, dtype=torch.float64),
        numbers(len(logits)),
    )
    assert torch.equal(rows.drawn(isa), rows.expected())


@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(
        st.floats(-(2.0**127), 2.0**127, width=32) | st.sampled_from([0.0, -0.0, 1.0, -torch.inf]), max_size=80
    ),
    temperature=st.floats(0, 100),
    top_k=st.integers(0, 90),
    top_p=st.floats(0, 1, exclude_min=True),
    min_p=st.floats(0, 1),
    u=st.floats(0, LAST),
)
def test_never_draws_what_the_filters_exclude(
    isa: Isa, logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float, u: float
) -> None:
    row = torch.tensor([*logits, 0.5])
    token = int(
        Rows.alike(row[None], temperature, (top_k, top_p, min_p), torch.tensor([u], dtype=torch.float64)).drawn(isa)
    )
    weights = torch.exp((row.double() - row.max()) / temperature) if temperature else (row == row.max()).double()
    order = row.sort(descending=True, stable=True).indices.tolist()
    place = order.index(token)
    head = weights[order][: top_k or None]
    assert place < len(head)
    assert weights[token] > 0
    assert float(head[:place].sum() / head.sum()) <= top_p * (1 + 1e-9)
    assert weights[token] >= min_p * (1 - 1e-5)


def test_rows_without_numbers_are_survived(isa: Isa) -> None:
    for value in (torch.nan, -torch.inf, torch.inf):
        for filters in FILTERS:
            rows = Rows.alike(torch.full((2, 100), value), 1.0, filters, numbers(2))
            assert ((rows.drawn(isa) >= 0) & (rows.out < 100)).all()
    some = torch.randn(3, 1000)
    some[:, ::3] = torch.nan
    for filters in FILTERS:
        assert not some[range(3), Rows.alike(some, 1.0, filters, numbers(3)).drawn(isa)].isnan().any()


def test_a_recorded_call_reads_the_numbers_of_its_run(isa: Isa) -> None:
    rows = Rows.alike(torch.randn(4, 999), 1.0, (0, 0.9, 0.0), numbers(4))
    with team.capture() as program:
        DrawToken(isa)(*rows.arguments)
    for _ in range(3):
        rows.u.copy_(torch.rand(4))
        rows.logits.copy_(torch.randn(4, 999))
        program.run()
        assert torch.equal(rows.out.clone(), rows.expected())


def test_takes_what_the_op_describes(isa: Isa) -> None:
    rows = Rows.alike(torch.zeros(2, 8), 1.0, FILTERS[0], numbers(2))
    logits, *others = rows.arguments
    assert not accepts(logits.double(), *others)
    assert not accepts(torch.zeros(8, 2).T, *others)
    assert not accepts(torch.zeros(2, MAX_VOCABULARY + 1), *others)
    largest = Rows.alike(torch.randn(1, MAX_VOCABULARY), 1.0, (0, 0.99, 0.0), numbers(1))
    assert torch.equal(largest.drawn(isa), largest.expected())
