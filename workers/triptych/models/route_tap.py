"""Watches which experts the rows of a step go to, and whom the router of the layer to come would choose."""

from dataclasses import dataclass, replace
from typing import Protocol, assert_never

import torch
from torch import Tensor

from triptych.core.errors import InvalidArgument, Unimplemented
from triptych.experts.blob import BlobLayout, Matrix
from triptych.experts.settings import Auto, OffloadSettings
from triptych.experts.store import compact_layout
from triptych.experts.traces import TracedModel
from triptych.kernels import Experts, embedding
from triptych.models.compact_pack import expandable
from triptych.models.decoder import Decoder
from triptych.models.expert_parallel import ExpertParallelMixture
from triptych.models.expert_route import routers_digest
from triptych.models.experts import MixtureOfExperts
from triptych.models.offloaded import OffloadedMixture
from triptych.models.parameters import Linear
from triptych.models.sharding.reduced import Reduced
from triptych.models.step import StepInput
from triptych.models.workspace import Activations


class Watch(Protocol):
    """Hears of every layer that has experts, in order."""

    def layer(self, ids: Tensor, foreseen: Tensor | None) -> None:
        """A layer has chosen.

        Args:
            ids: [T, K] int32, valid during the call.
            foreseen: [T, E] float32, the next such layer's logits on this one's rows; None behind the last.
        """


@dataclass(frozen=True, slots=True)
class TappedMixture:
    """A mixture that somebody watches; its steps run call by call."""

    mixture: MixtureOfExperts | OffloadedMixture
    following: Linear | None
    watch: Watch

    def __call__(self, step: StepInput, acts: Activations, kv: Tensor) -> None:
        """As the mixture."""
        self.mixture(step, acts, kv)
        choice = acts.choices[self.mixture.router.weight.outputs, self.mixture.top_k]
        logits = None
        if self.following is not None:
            logits = torch.empty(len(acts.normed), self.following.weight.outputs, device=acts.normed.device)
            self.following(acts.normed, logits)
        self.watch.layer(choice.ids, logits)


def tapped(decoder: Decoder, watch: Watch) -> Decoder:
    """The decoder, with somebody who watches its mixtures; it shares weights and workspace with the one given.

    Raises:
        InvalidArgument: no layer has experts.
        Unimplemented: ranks divide them.
    """
    mixtures = _mixtures(decoder)
    routers = [mixture.router for mixture in mixtures.values()]
    following = dict(zip(mixtures, [*routers[1:], None], strict=True))
    layers = tuple(
        replace(layer, mlp=replace(layer.mlp, mixer=TappedMixture(mixtures[index], following[index], watch)))
        if index in mixtures
        else layer
        for index, layer in enumerate(decoder._layers)
    )
    return replace(decoder, _layers=layers)


def traced_model(name: str, decoder: Decoder) -> TracedModel:
    """What a recording says of the model.

    Raises:
        InvalidArgument: no layer has experts, or layers have different numbers of them.
        Unimplemented: ranks divide them.
    """
    mixtures = list(_mixtures(decoder).values())
    sizes = {(mixture.router.weight.outputs, mixture.top_k) for mixture in mixtures}
    if len(sizes) > 1:
        raise InvalidArgument(f"{name} has layers of different numbers of experts: {sorted(sizes)}", field="model")
    first = mixtures[0]
    layout = _read_layout(first, decoder.device.type)
    return TracedModel(
        name=name,
        digest=routers_digest([mixture.router for mixture in mixtures]),
        layers=len(mixtures),
        experts=first.router.weight.outputs,
        top_k=first.top_k,
        hidden=decoder.spec.hidden_size,
        blob=layout.nbytes,
        resident=layout.resident,
    )


def _read_layout(mixture: MixtureOfExperts | OffloadedMixture, device: str) -> BlobLayout:
    """Of the experts that are read; where all are in memory, of those that would be by default."""
    match mixture:
        case OffloadedMixture():
            return _layout(mixture.experts.experts)
        case MixtureOfExperts():
            layout = _layout(mixture.experts)
            twelve_bits = OffloadSettings(budget=Auto()).twelve_bits(device) and expandable()
            return compact_layout(layout) or layout if twelve_bits else layout
        case _:
            assert_never(mixture)


def _layout(experts: Experts) -> BlobLayout:
    gate, up, down = (Matrix(part.template, part.template_bias) for part in (experts.gate, experts.up, experts.down))
    return BlobLayout.of((gate, up, down))


def embedded(decoder: Decoder, token_ids: Tensor) -> Tensor:
    """What tokens [T] int64 go into the first layer as: [T, H]."""
    rows = torch.empty(len(token_ids), decoder.spec.hidden_size, dtype=decoder.dtype, device=decoder.device)
    with torch.inference_mode():
        embedding(token_ids, decoder._embedding, rows)
        return rows.mul_(decoder._embedding_scale)


def _mixtures(decoder: Decoder) -> dict[int, MixtureOfExperts | OffloadedMixture]:
    """By layer."""
    found: dict[int, MixtureOfExperts | OffloadedMixture] = {}
    for index, layer in enumerate(decoder._layers):
        match layer.mlp.mixer:
            case MixtureOfExperts() | OffloadedMixture() as mixture:
                found[index] = mixture
            case ExpertParallelMixture() | Reduced():
                raise Unimplemented("routes are recorded of one rank; start the engine without others", field="model")
    if not found:
        raise InvalidArgument("no layer of the model has experts", field="model")
    return found
