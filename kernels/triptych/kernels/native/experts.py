"""Mixture of experts in C++: choices sorted by expert, then two products that read every active expert once."""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from triptych.kernels.expert_slots import Waves
from triptych.kernels.experts import ClampedSilu, Experts, Gating, Projection, moe
from triptych.kernels.native.activation import Gate
from triptych.kernels.native.expert_forms import ExpertForm, ExpertForms, ExpertsArgs, RowsArgs, bytes_of, kind_of
from triptych.kernels.native.isa import Isa
from triptych.kernels.native.library import Kernel, load_kernel
from triptych.kernels.native.plain import plain
from triptych.kernels.native.team import recording, submit, workspace

MAX_TOKENS = 1 << 15
"""Whose sums fit into a thread's scratch memory (src/experts.h): more are cut."""
MAX_INPUTS = 1 << 14
"""Of which two times sixteen outputs fit there as float32 (kMaxInputs in src/experts.h)."""
_ALIGNED = 64
_GROUP = 16
"""Outputs whose sums lie together."""
_GATES: Mapping[str, Gate] = {"silu": Gate.SILU, "gelu": Gate.GELU, "gelu_tanh": Gate.GELU_TANH}


def register(isa: Isa) -> None:
    """Makes the kernels the backend of `moe` on CPUs.

    Raises:
        NotAvailable: they cannot be compiled here.
    """
    mixture = Moe(isa)
    moe.register("native", "cpu", mixture, mixture.accepts)


Call = Callable[[], None]
"""Runs a kernel, or records the call."""


class PlanArgs(ctypes.Structure):
    """Mirror of `PlanArgs` in src/experts_plan.cpp."""

    _fields_ = (
        ("ids", ctypes.c_void_p),
        ("plan", ctypes.c_void_p),
        ("flags", ctypes.c_void_p),
        ("window", ctypes.c_void_p),
        ("tokens", ctypes.c_int64),
        ("top_k", ctypes.c_int64),
        ("experts", ctypes.c_int64),
    )


class Moe:
    """See `triptych.kernels.moe`."""

    def __init__(self, isa: Isa) -> None:
        self._plan: Kernel[PlanArgs] = load_kernel("experts_plan", "experts_plan", PlanArgs, isa)
        self._forms = ExpertForms(isa)

    def accepts(self, x: Tensor, experts: Experts, ids: Tensor, weights: Tensor, gating: Gating, out: Tensor) -> bool:
        """Whether there are kernels for these arguments: gate and up are of one form."""
        gate, up, down = experts.gate, experts.up, experts.down
        return (
            plain(x, out)
            and x.shape == out.shape == (len(x), gate.inputs)
            and max(gate.inputs, down.inputs) <= MAX_INPUTS
            and ids.dtype is torch.int32
            and weights.dtype is torch.float32
            and ids.is_contiguous()
            and weights.is_contiguous()
            and ids.shape == weights.shape == (len(x), ids.shape[1])
            and (gate.outputs, gate.inputs) == (up.outputs, up.inputs) == (down.inputs, down.outputs)
            and kind_of(gate.template) == kind_of(up.template)
            and self._forms.find(gate.template, x.dtype) is self._forms.find(up.template, x.dtype)
            and all(self._takes(projection, x.dtype) for projection in (gate, up, down))
        )

    def _takes(self, projection: Projection, dtype: torch.dtype) -> bool:
        bias = projection.template_bias
        return (bias is None or bias.dtype is dtype) and self._forms.find(projection.template, dtype) is not None

    def __call__(
        self, x: Tensor, experts: Experts, ids: Tensor, weights: Tensor, gating: Gating, out: Tensor
    ) -> None:
        """Runs it, or records the calls."""
        if len(x) <= MAX_TOKENS:
            self._compute(x, experts, ids, weights, gating, out)
            return
        parts = -(-len(x) // MAX_TOKENS)
        for part in range(parts):
            rows = slice(len(x) * part // parts, len(x) * (part + 1) // parts)
            self._compute(x[rows], experts, ids[rows], weights[rows], gating, out[rows])

    def _compute(
        self, x: Tensor, experts: Experts, ids: Tensor, weights: Tensor, gating: Gating, out: Tensor
    ) -> None:
        first, second = (self._form(p, x.dtype) for p in (experts.gate, experts.down))
        count, entries, features = experts.gate.experts, ids.numel(), experts.down.inputs
        waves = _waves(experts)
        sizes = (
            plan_bytes(count, entries),
            len(x) * first.row_bytes(experts.gate.inputs),
            entries * features * x.itemsize,
            entries * second.row_bytes(features),
            0 if waves is None else len(x) * -(-experts.down.outputs // _GROUP) * _GROUP * 4,
        )
        plan, rows, hidden, hidden_rows, sums = _carve(sizes)
        kept = (*_tensors(experts), ids, weights)
        arrivals = (None, None) if experts.arrivals is None else (experts.arrivals.flags, experts.arrivals.waited)
        flags, waited = (None if tensor is None else tensor.data_ptr() for tensor in arrivals)
        window = None if waves is None else waves.window
        product = _Product(
            ids, plan, weights, gating, x.dtype is torch.bfloat16, (flags, waited), (window, sums), kept
        )
        args = PlanArgs(ids.data_ptr(), plan.data_ptr(), flags, window, *ids.shape, count)
        ready, before = product.ready(first, x, len(x), experts.gate, rows)
        gated, between = product.ready(second, hidden, entries, experts.down, hidden_rows)
        calls: tuple[Call, ...] = (
            partial(submit, self._plan, args, ids, plan, *arrivals),
            product.call(first.gated, ready, experts.gate, experts.up, hidden),
            *between,
            product.call(second.summed, gated, experts.down, experts.down, out),
        )
        for call in before:
            call()
        _run(calls, waves, count)

    def _form(self, projection: Projection, dtype: torch.dtype) -> ExpertForm:
        form = self._forms.find(projection.template, dtype)
        assert form is not None, "asked for before `accepts`"
        return form


class _Product:
    """What both products of a call have in common."""

    def __init__(
        self,
        ids: Tensor,
        plan: Tensor,
        weights: Tensor,
        gating: Gating,
        is_bf16: bool,
        arrivals: tuple[int | None, int | None],
        wave: tuple[int | None, Tensor],
        kept: tuple[Tensor, ...],
    ) -> None:
        self._ids, self._plan, self._weights, self._is_bf16, self._kept = ids, plan, weights, is_bf16, kept
        self._arrivals = arrivals
        self._window, self._partial = wave
        match gating:
            case ClampedSilu(alpha, limit):
                self._gate = (Gate.CLAMPED, alpha, limit)
            case name:
                self._gate = (_GATES[name], 0.0, 0.0)

    def ready(
        self, form: ExpertForm, x: Tensor, rows: int, projection: Projection, memory: Tensor
    ) -> tuple[Tensor, tuple[Call, ...]]:
        """Rows as the form reads them, and what makes them."""
        if form.rows is None:
            return x, ()
        kind = kind_of(projection.template)
        args = RowsArgs(x.data_ptr(), memory.data_ptr(), rows, projection.inputs, self._is_bf16, kind)
        return memory, (partial(submit, form.rows, args, x, memory),)

    def call(
        self,
        kernel: Kernel[ExpertsArgs],
        x: Tensor,
        projection: Projection,
        other: Projection,
        out: Tensor,
    ) -> Call:
        """One product."""
        weight = projection.template
        tensors = (x, self._plan, projection.addresses, other.addresses, self._weights, out)
        args = ExpertsArgs(
            *(tensor.data_ptr() for tensor in tensors),
            *self._ids.shape,
            projection.experts,
            projection.inputs,
            projection.outputs,
            self._is_bf16,
            kind_of(weight),
            bytes_of(weight),
            *self._gate,
            *self._arrivals,
            self._window,
            self._partial.data_ptr(),
        )
        return partial(submit, kernel, args, *tensors, self._partial, *self._kept)


def _waves(experts: Experts) -> Waves | None:
    """Those in which the experts that are asked for take turns; None where all are there at once."""
    waves = None if experts.arrivals is None else experts.arrivals.waves
    return None if waves is None or waves.count == 1 else waves


def _run(calls: Sequence[Call], waves: Waves | None, experts: int) -> None:
    """Runs or records what computes with one wave, for each; waves share its arguments.

    A step that runs now ends with the last expert. A recorded one does not know yet which wave has it.
    """
    for wave in range(1 if waves is None else waves.count):
        if waves is not None:
            waves.enter(wave)
        for call in calls:
            call()
        if waves is not None and waves.after == experts and not recording():
            return


def plan_bytes(experts: int, entries: int) -> int:
    """Of the plan (src/experts_plan.h) of so many choices."""
    return 4 * (2 + 2 * experts + entries + min(experts, entries))


def _carve(sizes: tuple[int, ...]) -> list[Tensor]:
    """Pieces of the memory that calls share, each of so many bytes, aligned."""
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + -(-size // _ALIGNED) * _ALIGNED)
    memory = workspace(starts[-1])
    return [memory[start : start + size] for start, size in zip(starts, sizes, strict=False)]


def _tensors(experts: Experts) -> tuple[Tensor, ...]:
    """Everything that is read through the addresses."""
    projections = (experts.gate, experts.up, experts.down)
    return tuple(tensor for projection in projections for tensor in projection.tensors)
