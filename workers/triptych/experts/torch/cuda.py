"""Copies to an accelerator of NVIDIA or AMD: a stream of their own, and pinned memory."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from triptych.core.errors import ResourceExhausted
from triptych.experts.store.direct import pages
from triptych.experts.torch.copier import Event, Expand


@dataclass(frozen=True, slots=True, eq=False)
class CudaEvent:
    """See `Event`."""

    event: torch.cuda.Event
    device: torch.device

    def wait(self) -> None:
        """See `Event.wait`."""
        torch.cuda.current_stream(self.device).wait_event(self.event)

    def done(self) -> bool:
        """See `Event.done`."""
        return bool(self.event.query())  # type: ignore[no-untyped-call]

    def synchronize(self) -> None:
        """See `Event.synchronize`."""
        self.event.synchronize()


class CudaCopier:
    """See `Copier`. One thread uses it.

    The memory that it copies to is allocated once and never freed while it copies, so that no allocator needs to
    know of the stream.

    Args:
        device: Where to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        self._registered: list[Tensor] = []

    def host_memory(self, nbytes: int) -> Tensor:
        """See `Copier.host_memory`. Registered, because the allocator of pinned memory rounds up to powers of two.

        Raises:
            ResourceExhausted: the driver does not pin so much.
        """
        memory = pages(nbytes)
        failed = int(self._runtime.cudaHostRegister(memory.data_ptr(), nbytes, 0))
        if failed:
            raise ResourceExhausted(f"{nbytes:,} bytes of host memory cannot be pinned (error {failed})")
        self._registered.append(memory)
        return memory

    def device_memory(self, nbytes: int) -> Tensor:
        """See `Copier.device_memory`."""
        return torch.empty(nbytes, dtype=torch.uint8, device=self._device)

    def fence(self) -> CudaEvent:
        """See `Copier.fence`."""
        return self._recorded(torch.cuda.current_stream(self._device))

    def copy(self, source: Tensor, target: Tensor, after: Event, expand: Expand | None = None) -> CudaEvent:
        """See `Copier.copy`. What is expanded takes memory of the stream's own, which is used again in its order."""
        with torch.cuda.stream(self._stream):
            after.wait()
            if expand is None:
                target.copy_(source, non_blocking=True)
            else:
                expand(source.to(self._device, non_blocking=True), target)
        return self._recorded(self._stream)

    def close(self) -> None:
        """See `Copier.close`."""
        self._stream.synchronize()
        while self._registered:
            self._runtime.cudaHostUnregister(self._registered.pop().data_ptr())

    def _recorded(self, stream: torch.cuda.Stream) -> CudaEvent:
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(stream)
        return CudaEvent(event, self._device)
