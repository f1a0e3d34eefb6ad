"""Process groups of torch for a device."""

import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, ProcessGroupGloo, Store


@dataclass(frozen=True, slots=True)
class Backends:
    """How groups are made.

    Attributes:
        device: Where tensors are: nccl for GPUs, gloo for main memory.
        host: Rank 0's address; when it is a loopback one, everything stays on this machine.
        patience: How long a call waits for other ranks.
    """

    device: torch.device
    host: str
    patience: timedelta

    def open(self, store: Store, rank: int, size: int) -> tuple[dist.ProcessGroup, dist.ProcessGroup]:
        """Connects with the other members: for tensors of the device, and for those in main memory."""
        host = self._gloo(PrefixStore("gloo", store), rank, size)
        if self.device.type == "cpu":
            return host, host
        return self._nccl(PrefixStore("nccl", store), rank, size), host

    def _gloo(self, store: Store, rank: int, size: int) -> dist.ProcessGroup:
        gloo: Any = ProcessGroupGloo  # torch's stubs have other options than torch
        options = gloo._Options()
        options._timeout = self.patience
        options._threads = 1
        # What the machine is called may be an address of its own only (127.0.1.1), where nobody else reaches it.
        options._devices = [ProcessGroupGloo.create_device(hostname=own_address(self.host))]
        return cast(dist.ProcessGroup, gloo(store, rank, size, options))

    def _nccl(self, store: Store, rank: int, size: int) -> dist.ProcessGroup:
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2")  # a late rank ends the group, not the process
        torch.cuda.set_device(self.device)
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = self.patience
        return cast(dist.ProcessGroup, dist.ProcessGroupNCCL(store, rank, size, options))


def own_address(peer: str) -> str:
    """This machine's address on its way to another one; nothing is sent.

    Raises:
        OSError: there is no way.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])
