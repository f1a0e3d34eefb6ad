"""A worker's settings on the machine that one of its processes runs on."""

from dataclasses import replace
from typing import Any

from triptych.models.files import ModelFiles
from triptych.stages.settings import StageSettings

LEAVE_SECONDS = 30.0
"""How long a process waits for a controller to end it once it has nothing left to do, where nobody else may do it."""


def at_home(settings: StageSettings, joined: bool) -> StageSettings:
    """The settings as they are on the node that this process runs on; on this machine they are what they are."""
    if not joined:
        return settings
    import ray

    from triptych.models.resolve import resolve  # a second to import, and seldom needed

    node: Any = ray.util
    files: ModelFiles = settings.files if settings.files.path.exists() else resolve(settings.files.name)
    return replace(settings, files=files, host=node.get_node_ip_address())
