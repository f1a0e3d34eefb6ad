"""Scenarios from YAML, with errors that name the line."""

from pathlib import Path

from pydantic import ValidationError

from triptych.config.document import Document, Problem, read_document, report
from triptych.core.errors import InvalidArgument, NotFound
from triptych.simulator.scenario import Scenario

HERE = Path(__file__).parent / "scenarios"


def names() -> tuple[str, ...]:
    """The scenarios that come with the package."""
    return tuple(sorted(path.stem for path in HERE.glob("*.yaml")))


def load_scenario(name: str) -> Scenario:
    """Reads a file, or the scenario of that name.

    Raises:
        NotFound: there is neither.
        InvalidArgument: every mistake in it, each as `file:line:column: what`.
    """
    path = HERE / f"{name}.yaml" if name in names() else Path(name)
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        known = ", ".join(names())
        raise NotFound(f"{name} is neither a file nor one of the scenarios {known}", field="scenario") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path} cannot be read: {error}", field="scenario") from error
    return parse(text, str(path))


def parse(text: str, file: str) -> Scenario:
    """Reads a scenario's text; errors as `load_scenario`, `file` being the name in them."""
    document = read_document(text)
    problems = list(document.problems)
    if not problems:
        try:
            return Scenario.model_validate({} if document.value is None else document.value)
        except ValidationError as error:
            problems = [_problem(document, error, number) for number in range(error.error_count())]
    raise InvalidArgument(report(problems, file), field="scenario")


def _problem(document: Document, error: ValidationError, number: int) -> Problem:
    detail = error.errors(include_url=False, include_context=False)[number]
    place = tuple(part for part in detail["loc"] if part not in ("poisson", "burst", "trace"))
    name = ".".join(map(str, place))
    if detail["type"] == "extra_forbidden":
        return Problem(document.place_of(place), f"unknown key {name!r}")
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return Problem(document.place_of(place), f"{name or 'the scenario'}: {message}, got {detail['input']!r:.60}")
