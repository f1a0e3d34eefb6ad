"""No recipe without a comparison."""

import pytest

from triptych.models.recipes import RECIPES
from triptych.models.recipes.text_encoders import TEXT_RECIPES


def test_every_recipe_is_compared_with_transformers(request: pytest.FixtureRequest) -> None:
    """The `parity` fixture sees to it that a test compares what its mark says."""
    marks = [mark for item in request.session.items for mark in item.iter_markers("family")]
    if not marks:
        pytest.skip("only this test was asked for: run the folder")
    missing = sorted((RECIPES.keys() | TEXT_RECIPES.keys()) - {name for mark in marks for name in mark.args})
    assert not missing, f"recipes without a test that is marked family(…): {', '.join(missing)}"
