"""The instruction sets that the kernels are tried on: all that this machine runs."""

from collections.abc import Iterator

import pytest

from triptych.kernels.native import team
from triptych.kernels.native.compile import NotAvailable, compiler
from triptych.kernels.native.isa import Isa, supported


@pytest.fixture(scope="session", autouse=True)
def with_compiler() -> None:
    try:
        compiler()
    except NotAvailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", params=supported(), ids=lambda isa: isa.name)
def isa(request: pytest.FixtureRequest) -> Isa:
    """Each of them in turn."""
    chosen: Isa = request.param
    return chosen


@pytest.fixture(params=[1, 2, 3], ids=lambda count: f"{count} threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """A team of that many threads, also of more than there are cores."""
    before = team.threads()
    team.resize(request.param)
    yield request.param
    team.resize(before)
