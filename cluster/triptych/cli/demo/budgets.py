"""Measured figures beside the limits that the project has set itself."""

from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One measurement.

    Attributes:
        limit: The budget; a lower value is better unless `at_least`.
    """

    name: str
    value: float
    unit: str
    limit: float | None = None
    at_least: bool = False

    @property
    def within(self) -> bool:
        """Whether the budget is kept; true where there is none."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def budget_table(figures: list[Figure]) -> Table:
    """The figures as a table for people."""
    table = Table("figure", "measured", "budget", "", title="budgets on this machine", title_justify="left")
    for figure in figures:
        sign = "≥" if figure.at_least else "≤"
        limit = "" if figure.limit is None else f"{sign} {figure.limit:.4g} {figure.unit}"
        verdict = "" if figure.limit is None else ("kept" if figure.within else "MISSED")
        table.add_row(figure.name, f"{figure.value:.4g} {figure.unit}", limit, verdict)
    return table
