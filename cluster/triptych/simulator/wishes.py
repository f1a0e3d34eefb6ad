"""The requests of one run, drawn from its seed."""

from random import Random
from typing import assert_never

from triptych.simulator.client import Whim, Wish
from triptych.simulator.dice import Dice
from triptych.simulator.encoder import embed
from triptych.simulator.messages import Ask, Prompt, Span
from triptych.simulator.scenario import BurstArrivals, PoissonArrivals, RequestSpec, Scenario, TraceArrivals
from triptych.simulator.tokens import VOCABULARY, answer, row

IMAGE_TOKEN = VOCABULARY - 1
PREFIXES = 3


def draw(scenario: Scenario, dice: Dice) -> tuple[Wish, ...]:
    """Every request, in the order of arrival."""
    spec = scenario.requests
    times = arrivals(spec, dice.stream("arrivals"))
    prompts, whims = dice.stream("prompts"), dice.stream("whims")
    prefixes = [[prompts.randrange(1, IMAGE_TOKEN) for _ in range(spec.prompt_tokens[1])] for _ in range(PREFIXES)]
    return tuple(_wish(f"r{number}", time, scenario, prefixes, prompts, whims) for number, time in enumerate(times))


def arrivals(spec: RequestSpec, random: Random) -> list[float]:
    """When the requests come, in seconds."""
    match spec.arrivals:
        case PoissonArrivals(rate=rate):
            times, now = [], 0.0
            for _ in range(spec.count):
                now += random.expovariate(rate)
                times.append(now)
            return times
        case BurstArrivals(every=every, size=size):
            return [number // size * every for number in range(spec.count)]
        case TraceArrivals(seconds=seconds):
            return sorted(seconds)
        case unknown:
            assert_never(unknown)


def _wish(
    request_id: str, arrives: float, scenario: Scenario, prefixes: list[list[int]], random: Random, whims: Random
) -> Wish:
    spec = scenario.requests
    prompt = _prompt(scenario, prefixes, random)
    placement = random.random()
    colocated = (
        True if placement < spec.colocated else False if placement < spec.colocated + spec.disaggregated else None
    )
    if not scenario.cluster.counts.prefill:
        colocated = colocated or None  # there is no pair to ask for
    timeout = random.uniform(*spec.deadline) if random.random() < spec.with_deadline else None
    whim, mood = Whim.NONE, whims.random()
    if mood < spec.cancelled:
        whim = Whim.CANCEL
    elif mood < spec.cancelled + spec.disconnected:
        whim = Whim.DISCONNECT
    away = whims.uniform(0.1, 1.5 * spec.linger) if whims.random() < spec.returning else None
    linger = spec.linger if whim is Whim.DISCONNECT else 0.0
    ask = Ask(request_id, prompt, colocated, timeout, linger, None)
    said = undisturbed(prompt, scenario.cluster.block_size)
    return Wish(ask, arrives, said, whim, whims.randrange(len(said) + 1), away)


def _prompt(scenario: Scenario, prefixes: list[list[int]], random: Random) -> Prompt:
    spec = scenario.requests
    length = random.randint(*spec.prompt_tokens)
    beginning = random.choice(prefixes)[: random.randint(1, length)] if random.random() < spec.shared_prefix else []
    tokens = beginning + [random.randrange(1, IMAGE_TOKEN) for _ in range(length - len(beginning))]
    images = random.randint(*spec.images) if random.random() < spec.with_images else 0
    spans: list[Span] = []
    for _ in range(images):
        start = random.randint(spans[-1].start + spans[-1].length if spans else 0, len(tokens))
        picture = f"picture-{random.randrange(spec.different_images)}"
        spans.append(Span(start, scenario.cluster.tokens_per_image, picture))
        tokens[start:start] = [IMAGE_TOKEN] * scenario.cluster.tokens_per_image
    return Prompt(tuple(tokens), tuple(spans), random.getrandbits(32), random.randint(*spec.answer_tokens))


def undisturbed(prompt: Prompt, block_size: int) -> tuple[int, ...]:
    """The answer of a cluster in which nothing ever happens."""
    inputs = list(prompt.token_ids)
    for span in prompt.spans:
        for place in range(span.length):
            inputs[span.start + place] = row(embed(span.picture), place)
    return answer(inputs, prompt.seed, prompt.limit, block_size)
