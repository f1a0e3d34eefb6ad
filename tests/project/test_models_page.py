"""docs/models.md against what it describes."""

from pathlib import Path

from triptych.models.recipes.catalogue import FAMILIES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/models.md").read_text()


def test_the_recipe_shown_is_the_one_that_runs() -> None:
    recipe = (ROOT / "workers/triptych/models/recipes/mistral.py").read_text()
    assert f"```python\n{recipe}```" in PAGE


def test_every_family_is_in_the_table() -> None:
    table = PAGE[PAGE.index("| family |") : PAGE.index("## Formats")]
    missing = [family.name for family in FAMILIES if family.name.split(" (")[0] not in table]
    assert not missing
