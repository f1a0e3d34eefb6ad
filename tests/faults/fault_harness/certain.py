"""Questions whose answers are no matter of rounding, as the offline engine tells.

The sums of a step depend on how many rows it has, in the last bits of a float32, and no two askings have the same
steps. Of some hundred random tokens one may lie that near to another, or to the border of what is drawn: nobody's
mistake, and not asked. That two askings agree does not show it, as the third may not; the room around a token does.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from unittest.mock import patch

from fault_harness.workload import Question, draw_question
from torch import Tensor

from triptych.cli.demo.digits import Digit
from triptych.core.sampling import SamplingParams, seed_of
from triptych.engine import Engine, runner
from triptych.engine.drawing import Draw, draw
from triptych.engine.plan import StepResult
from triptych.engine.sampler import SamplingRow, sample

SCORE_NOISE = 1e-3
"""Of a logit. Between sixteen rows and one, 1.5e-4 was the most that was seen in 650 rows."""
BORDER_NOISE = 1e-5
"""Of the random number and of top_p. The borders of a row moved by at most 4e-7 in the median row, 5.6e-6 in any."""
ROUNDS = 30


def certain_questions(model: str, rng: random.Random, digits: Sequence[Digit], count: int = 16) -> list[Question]:
    """Draws questions, and in place of a doubtful one another of its kind; each knows its answer in float32."""
    found: dict[int, Question] = {}
    with Engine(model, dtype="float32", context_length=1024, kv_cache_memory=256 << 20) as engine:
        for _ in range(ROUNDS):
            found |= _certain(engine, {i: draw_question(rng, i, digits) for i in range(count) if i not in found})
            if len(found) == count:
                return [found[index] for index in range(count)]
    raise AssertionError(f"of {count} questions only {sorted(found)} have a certain answer after {ROUNDS} rounds")


def _certain(engine: Engine, questions: Mapping[int, Question]) -> dict[int, Question]:
    """Those of the questions that have one answer in float32, with it."""
    params = {index: _params(index, question) for index, question in questions.items()}
    doubtful: set[int] = set()

    def watched(logits: Tensor, rows: list[SamplingRow]) -> StepResult:
        doubtful.update(row.seed for scores, row in zip(logits, rows, strict=True) if _in_doubt(scores, row))
        return sample(logits, rows)

    with patch.object(runner, "sample", watched):
        answers = engine.generate([question.prompt() for question in questions.values()], list(params.values()))
    return {
        index: replace(questions[index], answer=tuple(answer.token_ids))
        for index, answer in zip(questions, answers, strict=True)
        if params[index].seed not in doubtful
    }


def _params(index: int, question: Question) -> SamplingParams:
    """What the cluster makes of a question's options, and a seed to know a greedy one's rows by."""
    options = {name: value for name, value in question.options.items() if name not in ("placement", "request_id")}
    name = question.options.get("request_id")
    # Of a greedy row without a report no score would be looked at.
    return SamplingParams(**{"seed": seed_of(name) if name else index} | options, logprobs=0)


def _in_doubt(scores: Tensor, row: SamplingRow) -> bool:
    """Whether a little noise may make another token of these logits [vocabulary]."""
    if row.params.greedy:
        first, second = scores.topk(2).values.tolist()
        return bool(first - second < SCORE_NOISE)
    given, noise = row.draw, (-BORDER_NOISE, BORDER_NOISE)
    around = [
        Draw(replace(given.params, top_p=given.params.top_p + more), min(max(given.u + further, 0.0), 1.0 - 1e-9))
        for more, further in product(noise, noise)
    ]
    return len(set(draw(scores.repeat(len(around), 1), around))) > 1
