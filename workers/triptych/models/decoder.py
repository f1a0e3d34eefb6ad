"""The decoder: one implementation for every architecture that a `DecoderSpec` can describe."""

from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from triptych.kernels import (
    Weight,
    add_rms_norm,
    add_rms_norm_rows,
    embedding,
    linear,
    linear_argmax,
    rms_norm,
)
from triptych.models.files import ModelFiles
from triptych.models.head import Head, Likeliest, Logits
from triptych.models.layer import DecoderLayer, load_layer
from triptych.models.parameters import open_parameters
from triptych.models.progress import SILENT, Progress
from triptych.models.quantization import Quantization
from triptych.models.rotary import rotary_table
from triptych.models.spec import DecoderSpec, ModelSpec
from triptych.models.step import StepInput
from triptych.models.workspace import Activations, Workspace


@dataclass(frozen=True, slots=True)
class Decoder:
    """A language model over a paged KV pool. Runs one step at a time: its workspace is not shared between threads.

    Attributes:
        spec: What it is.
        dtype: Of activations, pool, and weights that are not quantised.
        device: Where all of them are.
    """

    spec: DecoderSpec
    dtype: torch.dtype
    device: torch.device
    _embedding: Weight
    _layers: tuple[DecoderLayer, ...]
    _norm: Tensor
    _head: Weight
    _workspace: Workspace

    @classmethod
    def load(
        cls,
        files: ModelFiles,
        spec: ModelSpec,
        dtype: torch.dtype,
        device: str = "cpu",
        *,
        quantization: Quantization = "none",
        progress: Progress = SILENT,
    ) -> "Decoder":
        """Opens a checkpoint; of a vision-language model only the language tensors are read.

        Raises:
            DataLoss: a file is damaged, or a tensor is missing or has another shape than the configuration says.
        """
        decoder, where = spec.decoder, torch.device(device)
        prefixes = ("model.",) if decoder.tied_head else ("model.", "lm_head.")
        parameters = open_parameters(files, spec.architecture, prefixes, dtype, where, progress, quantization)
        size = (decoder.vocab_size, decoder.hidden_size)
        tables = {
            (layer.attention.rope, layer.attention.head_dim): rotary_table(
                layer.attention.rope,
                layer.attention.head_dim,
                spec.context_length,
                where,
                interleaved=parameters.weights.interleaved,
            )
            for layer in set(decoder.layers)
        }
        table = parameters.weight("model.embed_tokens.weight", *size)
        return cls(
            spec=decoder,
            dtype=dtype,
            device=where,
            _embedding=table,
            _layers=tuple(
                load_layer(index, decoder, parameters, tables[layer.attention.rope, layer.attention.head_dim])
                for index, layer in enumerate(decoder.layers)
            ),
            _norm=parameters.tensor("model.norm.weight", decoder.hidden_size),
            _head=table if decoder.tied_head else parameters.weight("lm_head.weight", *size),
            _workspace=Workspace(decoder, dtype, where),
        )

    def kv_shape(self, num_blocks: int, block_size: int) -> tuple[int, int, int, int, int, int]:
        """Shape of the pool that `forward` needs: [layer, block, k|v, kv_head, token in block, head_dim]."""
        attention = self.spec.layers[0].attention
        return len(self.spec.layers), num_blocks, 2, attention.num_kv_heads, block_size, attention.head_dim

    def reserve(self, rows: int) -> None:
        """Makes room for steps of so many rows, so that no later one has to move the buffers."""
        self._workspace.rows(rows)

    def forward(self, step: StepInput, kv: Tensor) -> Tensor:
        """Computes one step and stores its keys and values; see `compute`.

        Returns:
            [R, V] float32 logits of the rows `step.logit_rows`; the caller's to keep and to change.
        """
        logits = torch.empty(len(step.logit_rows), self.spec.vocab_size, device=self.device)
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
        self._run_layers(step, acts, kv)
        if head is not None:
            self._score(step.logit_rows, acts, head)

    def _embed(self, step: StepInput, acts: Activations) -> None:
        embedding(step.token_ids, self._embedding, acts.residual)
        for rows in step.embeddings:
            acts.residual[rows.row : rows.row + len(rows.values)].copy_(rows.values)

    def _run_layers(self, step: StepInput, acts: Activations, kv: Tensor) -> None:
        """Leaves the last block's output in `acts.delta`, not yet added to `acts.residual`."""
        for index, (layer, pages) in enumerate(zip(self._layers, kv.unbind(0), strict=True)):
            if index == 0:
                rms_norm(acts.residual, layer.attention_norm, layer.norm_eps, acts.normed)
            else:
                add_rms_norm(acts.delta, acts.residual, layer.attention_norm, layer.norm_eps, acts.normed)
            layer.attention(step, acts, pages)
            add_rms_norm(acts.delta, acts.residual, layer.mlp_norm, layer.norm_eps, acts.normed)
            layer.mlp(acts)

    def _score(self, rows: Tensor, acts: Activations, head: Head) -> None:
        """Final norm and head, for the wanted rows only."""
        normed = acts.normed[: len(rows)]
        add_rms_norm_rows(acts.delta, acts.residual, rows, self._norm, self.spec.norm_eps, normed)
        match head:
            case Logits(values):
                linear(normed, self._head, None, values)
            case Likeliest(token_ids, values):
                linear_argmax(normed, self._head, token_ids, values)
            case _:
                assert_never(head)
