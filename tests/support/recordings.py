"""Recordings at random, and pools to replay them in."""

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from triptych.experts.pool import Pool
from triptych.experts.quotas import uniform
from triptych.experts.traces import Arm, Foreseen, Nobody, Policy, Predictor, Routes, Script, TracedModel, foretold
from triptych.experts.traces.routes import Demand

MODEL = TracedModel("at random", "0", layers=3, experts=8, top_k=2, hidden=6, blob=4096, resident=4096)


def recording(steps: int, rows: int = 1, model: TracedModel = MODEL) -> Routes:
    """Every step has one row of each of so many sequences; what is foreseen is right more often than not."""
    draw = np.random.default_rng(random.getrandbits(32))
    total = steps * rows
    taste = draw.gumbel(size=(model.layers, total, model.experts)) + 2 * draw.random((model.layers, 1, model.experts))
    guess = taste[1:] + 0.5 * draw.gumbel(size=taste[1:].shape)
    likely = np.argsort(-guess, axis=-1)[..., : model.top_k + 3]
    chances = np.take_along_axis(np.exp(guess) / np.exp(guess).sum(-1, keepdims=True), likely, axis=-1)
    vocabulary = np.arange(20, dtype=np.int32)
    return Routes(
        model=model,
        vocabulary=vocabulary,
        embeddings=draw.normal(size=(20, model.hidden)).astype(np.float16),
        steps=np.arange(0, total + 1, rows, dtype=np.int64),
        tokens=draw.choice(vocabulary, total).astype(np.int32),
        sequences=np.tile(np.arange(rows, dtype=np.int32), steps),
        positions=np.repeat(np.arange(steps, dtype=np.int32), rows),
        ids=np.argsort(-taste, axis=-1)[..., : model.top_k].astype(np.int32),
        foreseen=Foreseen(likely.astype(np.int32), chances.astype(np.float16)),
    )


def foreseeing(routes: Routes) -> Routes:
    """The same, with routers that foresee exactly what comes."""
    chances = np.linspace(1, 0.5, routes.model.top_k, dtype=np.float16)
    exact = Foreseen(routes.ids[1:], np.broadcast_to(chances, routes.ids[1:].shape))
    return replace(routes, foreseen=exact)


def arm(policy: Policy, script: Script, slots: int, predictor: Predictor | None = None, speculative: int = 0) -> Arm:
    """With quotas of all slots but as many as a layer has experts."""
    model = script.routes.model
    quotas = uniform(slots - model.experts, [model.experts] * model.layers)
    pool = Pool(slots, model.blob, quotas, speculative)
    return Arm(policy, foretold(predictor or Nobody(), script.routes), pool, 1)


def recall(told: Sequence[Demand], demands: Sequence[Demand]) -> float:
    """Share of the demand of layers that anything is foretold for, which is foretold."""
    found = asked = 0
    for likely, demand in zip(told, demands, strict=True):
        for some, needed in zip(likely, demand, strict=True):
            if some:
                asked += len(needed)
                found += len(set(some) & set(needed))
    return found / asked if asked else 0.0
