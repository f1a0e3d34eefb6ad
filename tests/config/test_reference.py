from pathlib import Path

from triptych.config.reference import write_reference
from triptych.config.spec import ClusterSpec

DOCS = Path(__file__).parents[2] / "docs"


def test_page_and_schema_are_those_that_the_settings_make(tmp_path: Path) -> None:
    write_reference(tmp_path)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert made.keys() == {"configuration.md", "configuration.schema.json"}
    assert made == {name: (DOCS / name).read_text() for name in made}, "run `make docs` and commit what it writes"


def test_every_setting_is_described_and_closed_to_unknown_keys() -> None:
    schema = ClusterSpec.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        assert section["description"]
        assert section["additionalProperties"] is False
        for key, value in section["properties"].items():
            assert "$ref" in value or value["description"], key


def test_the_default_of_what_the_program_chooses_is_auto() -> None:
    schema = ClusterSpec.model_json_schema()
    assert schema["properties"]["layout"]["default"] == "auto"
    assert schema["$defs"]["KvCacheSpec"]["properties"]["memory"]["default"] == "auto"
