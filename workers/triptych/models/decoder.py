"""The decoder: one implementation for every architecture that a `DecoderSpec` can describe."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, assert_never

import torch
from torch import Tensor

from triptych.experts.residency import Residency
from triptych.experts.settings import OffloadSettings
from triptych.experts.taken import TakenExperts
from triptych.kernels import Weight, embedding, linear, linear_argmax, scale, softcap
from triptych.models.adapters import NO_FOLDERS, open_adapters
from triptych.models.expert_parallel import ExpertParallelMixture
from triptych.models.expert_share import ExpertShare
from triptych.models.files import ModelFiles
from triptych.models.head import Head, Likeliest, Logits
from triptych.models.layer import DecoderLayer, load_layer
from triptych.models.layout import decoder_tensors
from triptych.models.norms import RmsNorm, load_norm
from triptych.models.offload import Offload
from triptych.models.offloaded import OffloadedLayer
from triptych.models.parameters import open_parameters
from triptych.models.progress import SILENT, Progress
from triptych.models.quantization import Quantization
from triptych.models.rotary_tables import RotaryTables
from triptych.models.sharding import Interval, local_spec, vocabulary
from triptych.models.sharding.dividing import divide
from triptych.models.sharding.reduced import DividedArgmax, DividedEmbedding
from triptych.models.spec import AttentionSpec, DecoderSpec, LatentAttentionSpec, ModelSpec
from triptych.models.step import StepInput
from triptych.models.workspace import Activations, Workspace
from triptych.parallel import Mesh

_ALONE: Final = Mesh()


@dataclass(frozen=True, slots=True)
class Decoder:
    """A language model over a paged KV pool. Runs one step at a time: its workspace is not shared between threads.

    With others in its mesh it has a part of the model, and every one of them runs the same steps in the same order.

    Attributes:
        spec: What the whole model is.
        local: What this rank has of it.
        mesh: The ranks.
        vocabulary: Tokens whose scores this rank computes.
        dtype: Of activations, pool, and weights that are not quantised.
        device: Where all of them are.
        adapters: Their names, by the numbers that steps have.
    """

    spec: DecoderSpec
    local: DecoderSpec
    mesh: Mesh
    vocabulary: Interval
    dtype: torch.dtype
    device: torch.device
    adapters: tuple[str, ...]
    _embedding: Weight
    _embedding_scale: float
    _layers: tuple[DecoderLayer, ...]
    _norm: RmsNorm
    _head: Weight
    _workspace: Workspace
    _offload: Offload | None
    _look_up: Callable[[Tensor, Weight, Tensor], None]
    _find_largest: Callable[[Tensor, Weight, Tensor, Tensor], None]

    @classmethod
    def load(
        cls,
        files: ModelFiles,
        spec: ModelSpec,
        dtype: torch.dtype,
        device: str = "cpu",
        *,
        positions: int | None = None,
        quantization: Quantization = "none",
        adapters: Mapping[str, Path] = NO_FOLDERS,
        mesh: Mesh = _ALONE,
        offload: OffloadSettings | None = None,
        progress: Progress = SILENT,
    ) -> "Decoder":
        """Opens a checkpoint; of a vision-language model only the language tensors are read.

        Args:
            files: The model.
            spec: What it is.
            dtype: Of activations, adapters, and weights that are not quantised.
            device: Where all of them go.
            positions: That steps may have, from 0: angles are tabulated for these; None means the model's context.
            quantization: The form of the matrices.
            adapters: Folders of adapters, by name (`triptych.models.adapters`).
            mesh: Who divides the model; only this rank's part of the tensors is read.
            offload: How experts are kept that do not all fit; None keeps them all. Then `close` is due at the end.
            progress: Told about conversions.

        Raises:
            InvalidArgument: more ranks than the model can be divided among, or too little memory for experts.
            DataLoss: a file is damaged, or a tensor is missing or has another shape than the configuration says.
            Unimplemented: an adapter of a kind that is not served.
        """
        decoder, where = spec.decoder, torch.device(device)
        local_spec(decoder, mesh.parallelism, mesh.rank)  # refuses before anything is converted
        wanted = decoder_tensors(decoder)
        parameters = open_parameters(files, spec, wanted, dtype, where, progress, quantization)
        opened = open_adapters(adapters, spec, dtype, where, progress, interleaved=parameters.interleaved)
        local, parameters = divide(replace(parameters, adapters=opened), decoder, mesh)
        rows, divided = vocabulary(decoder, mesh.attention.size)[mesh.attention.rank], mesh.attention.size > 1
        tables = RotaryTables.of(decoder, spec.context_length if positions is None else positions, parameters)
        table = parameters.weight("embedding.weight")
        with ExitStack() as undone:
            pool = None if offload is None else Offload.open(files, local, parameters, offload, progress)
            offloaded: Mapping[int, OffloadedLayer] = {}
            if pool is not None:
                undone.callback(pool.residency.close)
                offloaded = pool.layers
            made = cls(
                spec=decoder,
                local=local,
                mesh=mesh,
                vocabulary=rows,
                dtype=dtype,
                device=where,
                adapters=opened.names,
                _embedding=table,
                # As the code that the checkpoints were trained with has it: a number of the activations' type.
                _embedding_scale=torch.tensor(decoder.embedding_scale, dtype=dtype).item(),
                _layers=tuple(
                    load_layer(
                        f"layers.{index}", layer, parameters, tables.for_layer(layer.attention), offloaded.get(index)
                    )
                    for index, layer in enumerate(local.layers)
                ),
                _norm=load_norm("norm", decoder.norm, parameters),
                _head=table if decoder.tied_head else parameters.weight("head.weight"),
                _workspace=Workspace(local, dtype, where),
                _offload=pool,
                _look_up=DividedEmbedding(rows, mesh.attention) if divided else embedding,
                _find_largest=DividedArgmax(rows, mesh.attention) if divided else linear_argmax,
            )
            undone.pop_all()
        return made

    @property
    def residency(self) -> Residency | None:
        """Keeps some of the experts in memory; None where all are."""
        return None if self._offload is None else self._offload.residency

    @property
    def taken(self) -> TakenExperts | None:
        """The experts that the rows of each step took; None where no step is made by them."""
        return None if self._offload is None else self._offload.taken

    def close(self) -> None:
        """Lets go of what keeps experts, if there is any; no step may follow. Idempotent."""
        if self._offload is not None:
            self._offload.residency.close()

    @property
    def shares(self) -> tuple[ExpertShare, ...]:
        """This rank's part of every layer whose experts are divided among ranks."""
        mixers = (layer.mlp.mixer for layer in self._layers)
        return tuple(mixer.share for mixer in mixers if isinstance(mixer, ExpertParallelMixture))

    def kv_shape(self, num_blocks: int, block_size: int) -> tuple[int, int, int, int, int, int]:
        """Shape of the pool that `forward` needs: [layer, block, k|v, kv_head, token in block, head_dim].

        Latent attention has one vector per token, for keys and values and all heads.
        """
        layers, attention = len(self.local.layers), self.local.layers[0].attention
        match attention:
            case AttentionSpec():
                return layers, num_blocks, 2, attention.num_kv_heads, block_size, attention.head_dim
            case LatentAttentionSpec():
                return layers, num_blocks, 1, 1, block_size, attention.latent_dim + attention.rope.dimensions
            case _:
                assert_never(attention)

    def reserve(self, rows: int) -> None:
        """Makes room for steps of so many rows, so that no later one has to move the buffers."""
        self._workspace.rows(rows)

    def forward(self, step: StepInput, kv: Tensor) -> Tensor:
        """Computes one step and stores its keys and values; see `compute`.

        Returns:
            [R, V] float32 logits of the rows `step.logit_rows`, of the tokens in `vocabulary`; the caller's to keep
            and to change.
        """
        logits = torch.empty(len(step.logit_rows), self.vocabulary.size, device=self.device)
        with torch.inference_mode():
            self.compute(step, kv, Logits(logits) if len(logits) else None)
        return logits

    def compute(self, step: StepInput, kv: Tensor, head: Head | None) -> None:
        """Computes one step. Calls kernels only, on the tensors given and on buffers that stay where they are.

        Args:
            step: T rows.
            kv: The pool, of shape `kv_shape` and type `dtype`, updated at the step's slots.
            head: What is wanted of the rows `step.logit_rows`, and where to; None when there are none.
        """
        acts = self._workspace.rows(len(step.token_ids))
        self._embed(step, acts)
        if self._offload is not None:
            self._offload.predictor.begin(step, acts)
        self._run_layers(step, acts, kv)
        if head is not None:
            self._score(step.logit_rows, acts, head)

    def _embed(self, step: StepInput, acts: Activations) -> None:
        self._look_up(step.token_ids, self._embedding, acts.residual)
        if self._embedding_scale != 1:
            scale(acts.residual, self._embedding_scale, acts.residual)
        for rows in step.embeddings:
            acts.residual[rows.row : rows.row + len(rows.values)].copy_(rows.values)

    def _run_layers(self, step: StepInput, acts: Activations, kv: Tensor) -> None:
        """Leaves the last block's output in `acts.delta`, not yet added to `acts.residual`."""
        for index, (layer, pages) in enumerate(zip(self._layers, kv.unbind(0), strict=True)):
            run = layer.attention if index else layer.attention.first
            run(step, acts, pages)
            layer.mlp(step, acts, pages)
            for rows in step.embeddings:
                rows.add_level(index, acts.residual)

    def _score(self, rows: Tensor, acts: Activations, head: Head) -> None:
        """Final norm and head, for the wanted rows only."""
        normed = acts.normed[: len(rows)]
        self._norm.of_rows(acts.delta, acts.residual, rows, normed)
        match head:
            case Logits(values):
                linear(normed, self._head, None, values)
                self._moderate(values)
            case Likeliest(token_ids, values):
                # Scaling and capping keep the order of scores.
                self._find_largest(normed, self._head, token_ids, values)
            case _:
                assert_never(head)

    def _moderate(self, logits: Tensor) -> None:
        if self.spec.logit_scale != 1:
            scale(logits, self.spec.logit_scale, logits)
        if self.spec.logit_softcap:
            softcap(logits, self.spec.logit_softcap, logits)
