"""What clients have seen of a fault, and the table of it in docs/reliability.md."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

HEADER = (
    "| fault | attempts begun anew | fault to next token, median | longest | longest pause in a stream | "
    "undisturbed | all workers back |"
)
BEGIN, END = "<!-- recovery times: begin -->", "<!-- recovery times: end -->"


@dataclass(frozen=True, slots=True)
class Recovery:
    """One fault; seconds.

    Attributes:
        name: The fault.
        streams: Streams that ran.
        replays: Attempts that were begun anew.
        median: From the fault to the next token of a stream that it has hit.
        worst: The longest of these.
        pause: Between the two tokens of a stream furthest apart.
        calm: The same in the undisturbed run.
        ready: From the fault until every worker was there again.
    """

    name: str
    streams: int
    replays: int
    median: float
    worst: float
    pause: float
    calm: float
    ready: float

    @property
    def row(self) -> str:
        """Of the table."""
        seconds = (self.median, self.worst, self.pause, self.calm, self.ready)
        return f"| {self.name} | {self.replays} | " + " | ".join(f"{value:.1f} s" for value in seconds) + " |"


def append(file: Path, recovery: Recovery) -> None:
    """Adds a measurement to a file of JSON lines."""
    with file.open("a") as lines:
        lines.write(json.dumps(asdict(recovery)) + "\n")


def read(file: Path) -> list[Recovery]:
    """The measurements of a file, the last one of each fault."""
    found = [Recovery(**json.loads(line)) for line in file.read_text().splitlines()]
    return list({recovery.name: recovery for recovery in found}.values())


def table(recoveries: list[Recovery]) -> str:
    """Markdown: workers that have a second one, workers that have none, then the whole `triptych serve`."""
    ranks = {recovery: ("serve" in recovery.name, "only" in recovery.name) for recovery in recoveries}
    rows = sorted(recoveries, key=lambda recovery: (*ranks[recovery], recovery.name))
    return "\n".join([HEADER, "| --- |" + " --- |" * 6, *(recovery.row for recovery in rows)])


def insert(text: str, block: str) -> str:
    """A page with `block` between its markers."""
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{block}\n{END}{rest.split(END)[1]}"
