"""A recording, and what every replay needs to know of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from triptych.experts.traces.device import Device
from triptych.experts.traces.routes import Demand, Routes


@dataclass(frozen=True, slots=True)
class Script:
    """What all arms have in common.

    Attributes:
        routes: The recording.
        demands: Of its steps.
        decoding: Which of them are answers that go on, and nothing else.
    """

    routes: Routes
    demands: tuple[Demand, ...]
    decoding: tuple[bool, ...]

    @classmethod
    def of(cls, routes: Routes) -> "Script":
        """Works them out."""
        return cls(routes, routes.demands(), tuple(routes.decoding().tolist()))

    @property
    def uses(self) -> tuple[tuple[float, ...], ...]:
        """By layer and expert: the share of steps that ask for it."""
        model = self.routes.model
        found = [[0] * model.experts for _ in range(model.layers)]
        for demand in self.demands:
            for counted, experts in zip(found, demand, strict=True):
                for expert in experts:
                    counted[expert] += 1
        return tuple(tuple(count / len(self.demands) for count in layer) for layer in found)

    def hit_ratio(self, reads: Sequence[int]) -> float:
        """Share of the demand of decoding that was there, where steps read so many experts."""
        asked = sum(sum(map(len, self.demands[step])) for step in self._decoded)
        return 1 - sum(reads[step] for step in self._decoded) / asked if asked else 1.0

    def reads_per_token(self, reads: Sequence[int]) -> float:
        """Of decoding, where steps read so many experts."""
        return sum(reads[step] for step in self._decoded) / self.tokens if self.tokens else 0.0

    def bound(self, reads: Sequence[int], device: Device) -> float:
        """Tokens a second that nobody exceeds: reads are the fewest, and all of decoding goes on meanwhile.

        Args:
            reads: By step: `fewest_reads`.
            device: The machine.
        """
        count = sum(reads[step] for step in self._decoded)
        seconds = max(len(self._decoded) * device.step, count * self.routes.model.blob / device.bandwidth)
        return self.tokens / seconds if seconds else 0.0

    @property
    def tokens(self) -> int:
        """That steps of decoding made."""
        sizes = (self.routes.steps[1:] - self.routes.steps[:-1]).tolist()
        return sum(sizes[step] for step in self._decoded)

    @property
    def _decoded(self) -> list[int]:
        return [step for step, on in enumerate(self.decoding) if on]
