"""Recorded steps: the same bits as call by call, recorded once per number of sequences."""

import itertools
from dataclasses import dataclass, field

import pytest
import torch

from triptych.core.sampling import SamplingParams
from triptych.engine import Engine
from triptych.engine.plan import StepPlan, StepResult
from triptych.engine.replay import StepRecorder
from triptych.engine.runner import LaunchedStep, ModelRunner
from triptych.engine.sequence import Sequence
from triptych.kernels import AttentionBatch, native
from triptych.kernels.native import team
from triptych.models.decoder import Decoder
from triptych.models.head import Likeliest, Logits
from triptych.models.resolve import resolve
from triptych.models.spec import read_spec
from triptych.models.step import StepInput
from triptych.parallel import Parallelism
from triptych.parallel.thread_group import thread_meshes

pytestmark = pytest.mark.skipif(native.install().isa is None, reason="kernels cannot be compiled here")

PROMPTS = [
    "The sun is",
    "A list of colours: red,",
    "Once upon a time there was a fox who lived beside a river and",
    "1 2 3 4 5",
    "In the middle of the night",
]
BLOCK_BYTES = 30 * 2 * 3 * 16 * 64 * 4  # layers, k and v, heads, tokens, dimensions, bytes


@dataclass
class Checked:
    """Computes every step call by call first, on a copy of the cache, and compares."""

    inner: ModelRunner
    replays: int = 0
    kinds: set[str] = field(default_factory=set)
    balancer: None = None

    def launch(self, plan: StepPlan) -> "CheckedStep":
        kv = self.inner._kv.clone()
        logits = self.inner._decoder.forward(self.inner._table.fill(plan), kv)
        return CheckedStep(self, self.inner.launch(plan), logits, kv)

    def foresee(self, sequences: tuple[Sequence, ...]) -> None:
        self.inner.foresee(sequences)

    def idle(self) -> None:
        self.inner.idle()


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
    checked = Checked(engine.core._loop.runner)  # type: ignore[arg-type]
    engine.core._loop.runner = checked
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
    recorder = engine.core._loop.runner._recorder  # type: ignore[attr-defined]
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True)
    engine.generate(PROMPTS[:1], params)
    assert recorder.recorded == 2  # one prompt, eleven decode steps alike
    engine.generate(PROMPTS[1:2], params)
    assert recorder.recorded == 3  # a prompt of another length
    engine.generate(PROMPTS[:3], params)
    assert recorder.recorded == 5


def test_who_leaves_while_a_step_computes_takes_nothing_from_the_others() -> None:
    """In a cache of few blocks: what is freed is somebody else's in the next step."""
    engine = Engine("builtin:smollm2", dtype="float32", quantization="int8", kv_cache_memory=10 * BLOCK_BYTES)
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    expected = [answer.token_ids for answer in engine.generate(PROMPTS, params)]
    core = engine.core
    sequences = [sequence for prompt in PROMPTS for sequence in engine._sequences(engine._prompt(prompt), (), params)]
    for sequence in sequences:
        core.scheduler.add(sequence)
    leaving = {6: sequences[1], 9: sequences[3]}
    found: dict[str, list[int]] = {}
    under_way = 0
    for number in itertools.count():

        def leave(number: int = number) -> None:
            nonlocal under_way
            if sequence := leaving.get(number):
                under_way += any(step.program._launched for step in core.runner._recorder._kept.values())  # type: ignore[attr-defined]
                assert core.scheduler.release(sequence.key)

        outcome = core.step(leave)
        if outcome is None:
            break
        core.scheduler.check_integrity()
        for sequence, _, token_id, reason, _ in outcome.emitted:
            found.setdefault(sequence.key.request_id, []).append(token_id)
            if reason:
                core.scheduler.release(sequence.key)
    assert under_way == len(leaving)
    assert core.scheduler.pool.held_count == 0
    for sequence, tokens in zip(sequences, expected, strict=True):
        count = len(found[sequence.key.request_id])
        assert (count == len(tokens)) == (sequence not in leaving.values())
        assert tuple(found[sequence.key.request_id]) == tokens[:count]


def test_blocks_that_the_compiled_attention_does_not_take_are_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine("builtin:smollm2", dtype="bfloat16", kv_cache_memory=16 << 20, block_size=8)
    with caplog.at_level("WARNING", logger="triptych.engine.replay"):
        engine.generate(PROMPTS[:2], SamplingParams(temperature=0, max_tokens=4))
    [message] = caplog.messages
    assert "paged_attention has no compiled kernel" in message
    assert "blocks of 8" in message
    assert engine.core.runner._recorder.recorded == 0  # type: ignore[attr-defined]


def test_steps_are_kept_up_to_a_number_of_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    files = resolve("builtin:smollm2")
    decoder = Decoder.load(files, read_spec(files), torch.float32, positions=16)
    recorder = StepRecorder(decoder, torch.zeros(decoder.kv_shape(1, 16)), 3)

    def decoded(rows: int) -> int:
        """Steps recorded so far, with this one."""
        starts, ones = torch.arange(rows + 1, dtype=torch.int32), torch.ones(rows, dtype=torch.int32)
        batch = AttentionBatch(starts, ones, torch.zeros(rows, 1, dtype=torch.int32))
        zeros = torch.zeros(rows, dtype=torch.int64)
        step = recorder.decode(StepInput(zeros, zeros, zeros, batch, torch.arange(rows)), greedy=True)
        assert step is not None
        monkeypatch.setattr("triptych.engine.replay._KEPT_CALLS", 2 * len(step.program))
        return recorder.recorded

    assert [decoded(rows) for rows in (1, 2, 1, 3, 1, 3, 2)] == [1, 2, 2, 3, 3, 3, 4]


def test_steps_of_several_ranks_run_call_by_call_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    files = resolve("builtin:smollm2")
    mesh = thread_meshes(Parallelism(tensor=2), 1.0)[0]
    decoder = Decoder.load(files, read_spec(files), torch.float32, positions=16, mesh=mesh)
    one = torch.tensor([1], dtype=torch.int32)
    batch = AttentionBatch(torch.tensor([0, 1], dtype=torch.int32), one, torch.zeros(1, 1, dtype=torch.int32))
    step = StepInput(torch.tensor([5]), torch.tensor([0]), torch.tensor([0]), batch, torch.tensor([0]))
    with caplog.at_level("INFO"):
        recorder = StepRecorder(decoder, torch.zeros(decoder.kv_shape(1, 16)), 1)
    assert recorder.decode(step, greedy=True) is None
    assert "steps of 2 ranks run call by call" in caplog.text
