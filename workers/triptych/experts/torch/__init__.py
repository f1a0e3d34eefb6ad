"""Experts in slots, kept by Python: where C++ does not compile, and on accelerators."""

from triptych.experts.torch.opening import open_cpu, open_device
from triptych.experts.torch.residency import TorchResidency

__all__ = ["TorchResidency", "open_cpu", "open_device"]
