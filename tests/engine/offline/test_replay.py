"""Recorded steps: the same bits as call by call, recorded once per number of sequences."""

from dataclasses import dataclass, field

import pytest
import torch

from triptych.core.sampling import SamplingParams
from triptych.engine import Engine
from triptych.engine.plan import StepPlan, StepResult
from triptych.engine.runner import LaunchedStep, ModelRunner
from triptych.engine.sequence import Sequence
from triptych.kernels import native
from triptych.kernels.native import team
from triptych.models.head import Likeliest, Logits

pytestmark = pytest.mark.skipif(native.install().isa is None, reason="kernels cannot be compiled here")

PROMPTS = [
    "The sun is",
    "A list of colours: red,",
    "Once upon a time there was a fox who lived beside a river and",
    "1 2 3 4 5",
    "In the middle of the night",
]


@dataclass
class Checked:
    """Computes every step call by call first, on a copy of the cache, and compares."""

    inner: ModelRunner
    replays: int = 0
    kinds: set[str] = field(default_factory=set)

    def launch(self, plan: StepPlan) -> "CheckedStep":
        kv = self.inner._kv.clone()
        logits = self.inner._decoder.forward(self.inner._table.fill(plan), kv)
        return CheckedStep(self, self.inner.launch(plan), logits, kv)

    def foresee(self, sequences: tuple[Sequence, ...]) -> None:
        self.inner.foresee(sequences)


@dataclass
class CheckedStep:
    owner: Checked
    step: LaunchedStep
    logits: torch.Tensor
    kv: torch.Tensor

    def wait(self) -> StepResult:
        assert self.step._recorded is not None, "the step was not recorded"
        head = self.step._recorded.head
        if isinstance(head, Logits):
            self.step._recorded.program.join()
            assert torch.equal(head.values, self.logits)
            self.step._recorded.program.launch()  # a second run of the same step writes the same
        result = self.step.wait()
        if isinstance(head, Likeliest):
            assert torch.equal(head.token_ids, self.logits.argmax(dim=-1))
            assert torch.equal(head.values, self.logits.amax(dim=-1))
        assert torch.equal(self.owner.inner._kv.view(torch.uint8), self.kv.view(torch.uint8))
        self.owner.replays += 1
        self.owner.kinds.add(type(head).__name__)
        return result


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["none", "int8", "gguf"])
@pytest.mark.parametrize("threads", [1, 2])
def test_replaying_equals_computing_call_by_call_bit_for_bit(dtype: str, quantization: str, threads: int) -> None:
    before = team.threads()
    engine = Engine(
        "builtin:smollm2",
        dtype=dtype,
        quantization=quantization,
        kv_cache_memory=16 << 20,
        max_batch_tokens=16,
        threads=threads,
    )
    checked = Checked(engine.core._loop._runner)  # type: ignore[arg-type]
    engine.core._loop._runner = checked
    greedy = SamplingParams(temperature=0, max_tokens=6)
    drawn = SamplingParams(temperature=0.8, top_p=0.9, seed=5, max_tokens=9)
    try:
        engine.generate(PROMPTS[:2], greedy)
        engine.generate(PROMPTS, [greedy, drawn, drawn, greedy, drawn])
    finally:
        team.resize(before)
    assert checked.kinds >= {"Likeliest", "Logits"}
    assert checked.replays > 12


def test_a_decode_step_is_recorded_once_per_number_of_sequences() -> None:
    engine = Engine("builtin:smollm2", dtype="bfloat16", kv_cache_memory=16 << 20, prefix_caching=False)
    recorder = engine.core._loop._runner._recorder  # type: ignore[attr-defined]
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    engine.generate(PROMPTS[:1], params)
    assert recorder.recorded == 2  # one prompt, eleven decode steps alike
    engine.generate(PROMPTS[1:2], params)
    assert recorder.recorded == 3  # a prompt of another length
    engine.generate(PROMPTS[:3], params)
    assert recorder.recorded == 5
