"""Settings of serving as arms of a replay."""

from typing import assert_never

from triptych.core.errors import FailedPrecondition
from triptych.experts.pool import LayerNeed, pool_of
from triptych.experts.settings import OffloadSettings
from triptych.experts.traces.policies import LfuDecay, Lru, OnDemand, Policy, Ring, StaticHot
from triptych.experts.traces.predictors import Everybody, NextGate, Nobody, Predictor, Route, foretold
from triptych.experts.traces.replay import Arm
from triptych.experts.traces.route_model import RouteModel
from triptych.experts.traces.routes import Demand
from triptych.experts.traces.script import Script


class Arms:
    """Of one recording; what predictors say is worked out once for all budgets.

    Args:
        script: The recording.
        route: What has been trained, where `route` is to be replayed.
        uses: What `static-hot` and `measured` know of how often experts are needed, by layer and expert. Without it,
            how often the recording itself asks for each: nobody who serves knows that beforehand, so that what they
            come to is the best that they can.
    """

    def __init__(
        self, script: Script, route: RouteModel | None = None, uses: tuple[tuple[float, ...], ...] | None = None
    ) -> None:
        self._script = script
        self._route = route
        self._uses = script.uses if uses is None else uses
        self._told: dict[Predictor, tuple[Demand, ...]] = {}

    def of(self, settings: OffloadSettings) -> Arm:
        """The arm that these settings serve as, cold.

        Raises:
            InvalidArgument: the budget does not hold the experts of one layer.
            FailedPrecondition: `route` is asked for, and nothing trained is there, or of another model.
        """
        model = self._script.routes.model
        predictor = self._predictor(settings)
        if predictor not in self._told:
            self._told[predictor] = foretold(predictor, self._script.routes)
        needs = [LayerNeed(model.experts, model.top_k, model.blob, uses, model.resident) for uses in self._uses]
        pool = pool_of(settings, needs)
        return Arm(self._policy(settings), self._told[predictor], pool, settings.readers)

    def _policy(self, settings: OffloadSettings) -> Policy:
        match settings.policy:
            case "lfu-decay":
                return LfuDecay()
            case "lru":
                return Lru()
            case "static-hot":
                return StaticHot(self._uses)
            case "ring":
                return OnDemand() if settings.prefetch == "none" else Ring()
            case _:
                assert_never(settings.policy)

    def _predictor(self, settings: OffloadSettings) -> Predictor:
        match settings.prefetch:
            case "none":
                return Nobody()
            case _ if settings.policy == "ring":
                return Everybody()
            case "next-gate":
                return NextGate(settings.widen)
            case "route":
                return Route(self._trained(), settings.widen)
            case _:
                assert_never(settings.prefetch)

    def _trained(self) -> RouteModel:
        model = self._script.routes.model
        if self._route is None:
            raise FailedPrecondition("route is replayed by what `triptych experts train` has written", field="route")
        if self._route.model.digest != model.digest:
            raise FailedPrecondition(
                f"the route was trained for {self._route.model.name}, the recording is of {model.name}", field="route"
            )
        return self._route
