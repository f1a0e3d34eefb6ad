"""Questions whose answers are no matter of rounding, as the offline engine tells."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fault_harness.workload import Question, draw_question

from tests.support.doubt import doubtful_rows
from triptych.cli.demo.digits import Digit
from triptych.core.sampling import SamplingParams, seed_of
from triptych.engine import Engine

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
    with doubtful_rows() as doubtful:
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
