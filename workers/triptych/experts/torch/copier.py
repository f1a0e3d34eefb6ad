"""The device as far as copying to it goes."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

Expand = Callable[[Tensor, Tensor], None]
"""Has the device write what a copied source, the first argument, stands for into a target, the second."""


class Event(Protocol):
    """A point in what a device does."""

    def wait(self) -> None:
        """What the device is given to compute from now on comes after it. Does not block."""

    def done(self) -> bool:
        """Whether the device is past it."""

    def synchronize(self) -> None:
        """Returns when the device is past it."""


class Copier(Protocol):
    """Copies to a device while it computes, in the order of the calls."""

    def host_memory(self, nbytes: int) -> Tensor:
        """Memory [nbytes] uint8 of the host that begins with a page, and that the device copies from by itself."""

    def device_memory(self, nbytes: int) -> Tensor:
        """Memory [nbytes] uint8 of the device."""

    def fence(self) -> Event:
        """After everything that the device has been given to compute so far."""

    def copy(self, source: Tensor, target: Tensor, after: Event, expand: Expand | None = None) -> Event:
        """Copies host memory into device memory when `after` has passed. The event returned is after the copy.

        Until then the source must not change, and nobody may read the target. With `expand` the source is copied
        elsewhere on the device, and the target is what that makes of it.
        """

    def close(self) -> None:
        """Gives host memory back, when all copies are over. Idempotent."""
