"""Experts kept in memory by compiled code: for CPUs."""

from triptych.experts.native.residency import NativeResidency

__all__ = ["NativeResidency"]
