from pathlib import Path

from triptych.config.reference import reference_markdown
from triptych.config.spec import ClusterSpec

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_the_one_that_the_settings_make() -> None:
    assert PAGE.read_text() == reference_markdown(), (
        "run: python -m triptych.config.reference > docs/configuration.md"
    )


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
