"""A device whose copies are over when a test says so."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from triptych.experts.store.direct import pages
from triptych.experts.torch.copier import Event, Expand

Order = Callable[[list["FakeCopy"]], "FakeCopy"]
"""Chooses which of the copies that have not been made is made next."""


@dataclass(eq=False)
class FakeCopy:
    """A copy, and the event after it."""

    device: "FakeDevice"
    source: Tensor
    target: Tensor
    expand: Expand | None = None
    made: bool = False

    def wait(self) -> None:
        """See `Event.wait`: the device computes what it is given at once, and so goes on until this has been made."""
        self.device.waited.append(self)
        while not self.made:
            self.device.make_one()

    def done(self) -> bool:
        """See `Event.done`."""
        return self.made

    def synchronize(self) -> None:
        """See `Event.synchronize`."""
        while not self.made:
            self.device.make_one()


@dataclass(frozen=True, slots=True)
class FakeFence:
    """After what was computed: at once."""

    def wait(self) -> None:
        """See `Event.wait`."""

    def done(self) -> bool:
        """See `Event.done`."""
        return True

    def synchronize(self) -> None:
        """See `Event.synchronize`."""


@dataclass(eq=False)
class FakeDevice:
    """See `Copier`. Reads the source only when a copy is made, and spoils the target until then.

    Attributes:
        order: Of the copies; only those to one place keep theirs.
        copies: All that were asked for.
        waited: Those that the computing side waited for.
    """

    order: Order = field(default=lambda pending: pending[0])
    copies: list[FakeCopy] = field(default_factory=list)
    waited: list[FakeCopy] = field(default_factory=list)
    closed: bool = False

    def host_memory(self, nbytes: int) -> Tensor:
        """See `Copier.host_memory`."""
        return pages(nbytes)

    def device_memory(self, nbytes: int) -> Tensor:
        """See `Copier.device_memory`."""
        return torch.full((nbytes,), 0xFF, dtype=torch.uint8)

    def fence(self) -> FakeFence:
        """See `Copier.fence`."""
        return FakeFence()

    def copy(self, source: Tensor, target: Tensor, after: Event, expand: Expand | None = None) -> FakeCopy:
        """See `Copier.copy`."""
        target.fill_(0xFF)
        copy = FakeCopy(self, source, target, expand)
        self.copies.append(copy)
        return copy

    def make_one(self) -> None:
        """The device gets one copy further."""
        pending = [copy for copy in self.copies if not copy.made]
        places = {copy.target.data_ptr(): copy for copy in reversed(pending)}
        copy = self.order([copy for copy in pending if places[copy.target.data_ptr()] is copy])
        if copy.expand is None:
            copy.target.copy_(copy.source)
        else:
            copy.expand(copy.source.clone(), copy.target)
        copy.made = True

    def close(self) -> None:
        """See `Copier.close`."""
        self.closed = True
