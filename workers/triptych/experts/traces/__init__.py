"""Which experts real steps asked for, written down; and what any policy would have made of it.

A trace is recorded once (`triptych.engine.route_recording`) and replayed as often as there are settings: through the
decisions that serve (`triptych.experts.cache`), on a disk of a given speed, beside Belady's optimum.
"""

from triptych.experts.traces.belady import fewest_reads
from triptych.experts.traces.device import Device
from triptych.experts.traces.log import RouteLog
from triptych.experts.traces.policies import LfuDecay, Lru, OnDemand, Policy, Ring, StaticHot
from triptych.experts.traces.predictors import Everybody, NextGate, Nobody, Predictor, Route, foretold
from triptych.experts.traces.replay import GIVEN_UP, Arm, Replayed, replay
from triptych.experts.traces.route_model import RouteModel, read_route_model, write_route_model
from triptych.experts.traces.routes import Foreseen, Routes, TracedModel
from triptych.experts.traces.script import Script
from triptych.experts.traces.storage import read_routes, write_routes
from triptych.experts.traces.training import Trained, train

__all__ = [
    "GIVEN_UP",
    "Arm",
    "Device",
    "Everybody",
    "Foreseen",
    "LfuDecay",
    "Lru",
    "NextGate",
    "Nobody",
    "OnDemand",
    "Policy",
    "Predictor",
    "Replayed",
    "Ring",
    "Route",
    "RouteLog",
    "RouteModel",
    "Routes",
    "Script",
    "StaticHot",
    "TracedModel",
    "Trained",
    "fewest_reads",
    "foretold",
    "read_route_model",
    "read_routes",
    "replay",
    "train",
    "write_route_model",
    "write_routes",
]
