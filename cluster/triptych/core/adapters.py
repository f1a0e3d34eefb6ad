"""Adapters of a model, by the names that requests choose them by."""

from collections.abc import Collection

from triptych.core.errors import NotFound


def require_adapter(name: str, known: Collection[str]) -> None:
    """Refuses a name that no adapter has; empty for the model as it is.

    Raises:
        NotFound: names the adapters that there are.
    """
    if name and name not in known:
        there = f"there are {', '.join(map(repr, known))}" if known else "there are none"
        raise NotFound(f"adapter {name!r:.200} is not served here; {there}", field="adapter")
