"""Mixture of experts whose experts are divided among ranks."""

from dataclasses import dataclass

from torch import Tensor

from triptych.kernels import Routing, route, sum_rows
from triptych.models.expert_exchange import Exchange
from triptych.models.expert_routes import Routes
from triptych.models.expert_share import ExpertShare
from triptych.models.parameters import Linear
from triptych.models.shared_expert import SharedExpert
from triptych.models.step import StepInput
from triptych.models.workspace import Activations, Choices
from triptych.parallel import Group, Mesh


@dataclass(frozen=True, slots=True)
class ExpertParallelMixture:
    """The weighted sum of a few experts of each token, wherever those are; whole on return.

    A row is sent once to a rank, however many of its experts are there. Each of its experts sends a result of its own
    back, and they are added up at home, in the order of the experts: which rank has what does not show in any sum.

    Attributes:
        router: Whole on every rank, as is all that chooses experts.
        correction: See `kernels.route`.
        routing: How experts are chosen.
        num_experts: E.
        top_k: Experts of a row.
        share: This rank's experts, and where the others are.
        exchange: The way there and back.
        shared: This rank's part of the block that every row goes through besides.
        mesh: The ranks.
    """

    router: Linear
    correction: Tensor | None
    routing: Routing
    num_experts: int
    top_k: int
    share: ExpertShare
    exchange: Exchange
    shared: SharedExpert | None
    mesh: Mesh

    def __call__(self, step: StepInput, acts: Activations, kv: Tensor) -> None:
        """From `acts.normed` to `acts.delta`. Without rows of its own a rank still computes those of others."""
        choice = acts.choices[self.num_experts, self.top_k]
        if len(acts.normed):
            self.router(acts.normed, choice.logits)
            route(choice.logits, self.correction, self.routing, choice.ids, choice.weights)
        if self.mesh.parallelism.attention == "data":
            self._run(acts.normed, choice, acts.delta)
            self._add_shared(step, acts, choice)
            self.mesh.tensor.all_reduce(acts.delta)
        elif self.shared is None:
            self._gather_parts(acts, choice)
        else:
            self._add_parts(step, acts, choice)

    def _run(self, x: Tensor, choice: Choices, out: Tensor) -> None:
        """The experts' sum of rows x [n, H], as far as the widths of this rank give it, into out [n, H]."""
        self.share.count(choice.ids)
        replicas = self.share.replicas
        routes = Routes.plan(replicas.choose(choice.ids), replicas.bounds)
        results = self.exchange(x, routes, self.share.ready)
        if len(x):
            order = choice.ids.argsort(dim=1)
            sum_rows(results, routes.places.gather(1, order), choice.weights.gather(1, order), out)

    def _gather_parts(self, acts: Activations, choice: Choices) -> None:
        """All ranks have the same rows: each row of the grid sees to a part of them, and then they exchange sums."""
        rows, most = _part(self.mesh.expert, len(acts.normed))
        part = acts.delta.new_zeros(most, acts.delta.shape[1])
        own = part[: rows.stop - rows.start]
        self._run(acts.normed[rows], choice.part(rows), own)
        self.mesh.tensor.all_reduce(own)
        parts = part.new_empty(self.mesh.expert.size, *part.shape)
        self.mesh.expert.all_gather(part, parts)
        acts.delta.copy_(parts.flatten(0, 1)[: len(acts.delta)])

    def _add_parts(self, step: StepInput, acts: Activations, choice: Choices) -> None:
        """The sum of the shared block goes over all ranks anyhow: the parts go with it."""
        rows, _ = _part(self.mesh.expert, len(acts.normed))
        acts.delta.zero_()
        self._run(acts.normed[rows], choice.part(rows), acts.delta[rows])
        self._add_shared(step, acts, choice)
        self.mesh.attention.all_reduce(acts.delta)

    def _add_shared(self, step: StepInput, acts: Activations, choice: Choices) -> None:
        if self.shared is not None and len(acts.normed):
            self.shared.add(step, acts, choice.share)


def _part(group: Group, rows: int) -> tuple[slice, int]:
    """The rows that a member sees to, and the most that any does."""
    most = -(-rows // group.size)
    start = min(group.rank * most, rows)
    return slice(start, min(start + most, rows)), most
