from collections.abc import Iterator

import pytest

from triptych.kernels.native import team
from triptych.kernels.native.compile import NotAvailable, compiler


@pytest.fixture(scope="session", autouse=True)
def with_compiler() -> None:
    try:
        compiler()
    except NotAvailable as error:
        pytest.skip(str(error))


@pytest.fixture(params=[1, 2], ids=lambda count: f"{count} threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = team.threads()
    team.resize(request.param)
    yield request.param
    team.resize(before)
