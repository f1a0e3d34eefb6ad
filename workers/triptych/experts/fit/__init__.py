"""How much memory experts get, and how fast that will be, from what this machine was just measured to do.

budget       what `auto` comes to: pure
prediction   tokens per second: pure
forecast     of a budget: pure
memory       bytes that are free
disk         bytes per second
"""

from triptych.experts.fit.budget import Everything, Need, Part, TooLittle, Verdict, choose_budget
from triptych.experts.fit.disk import disk_bandwidth, scratch_file
from triptych.experts.fit.forecast import Forecast, forecast, work_of
from triptych.experts.fit.memory import free_memory
from triptych.experts.fit.prediction import Prediction, Speeds, Work, expected_hits, predict

__all__ = [
    "Everything",
    "Forecast",
    "Need",
    "Part",
    "Prediction",
    "Speeds",
    "TooLittle",
    "Verdict",
    "Work",
    "choose_budget",
    "disk_bandwidth",
    "expected_hits",
    "forecast",
    "free_memory",
    "predict",
    "scratch_file",
    "work_of",
]
