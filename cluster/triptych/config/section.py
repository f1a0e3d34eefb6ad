"""What every group of settings has in common."""

from pydantic import BaseModel, ConfigDict

from triptych.config.choices import say_auto


class Section(BaseModel):
    """A group of settings: frozen, and closed to keys that do not exist."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, json_schema_extra=say_auto
    )
