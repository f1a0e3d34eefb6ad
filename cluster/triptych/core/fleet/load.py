"""Work that was dispatched to a worker: counted by who sends it, from the moment it is sent."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """Requests, prompt tokens that wait for prefill, image patches that wait for encoding."""

    requests: int = 0
    tokens: int = 0
    patches: int = 0

    def __add__(self, other: "Load") -> "Load":
        return Load(self.requests + other.requests, self.tokens + other.tokens, self.patches + other.patches)

    def __sub__(self, other: "Load") -> "Load":
        return Load(self.requests - other.requests, self.tokens - other.tokens, self.patches - other.patches)


NOTHING = Load()
