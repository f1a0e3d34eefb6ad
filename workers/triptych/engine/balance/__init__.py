"""Experts that move from rank to rank while steps run; what decides about it is `triptych.parallel.balance`.

mover      every rank's part: counts, prepares in the background, replaces between steps
balancer   rank 0's part: a clock, messages, and steps that are watched
"""

from triptych.engine.balance.balancer import Balancer, open_balancer
from triptych.engine.balance.mover import ExpertMover

__all__ = ["Balancer", "ExpertMover", "open_balancer"]
