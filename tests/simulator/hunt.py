"""Runs seeds until one violates an invariant. A process of its own: the core on its path may be a mutant."""

import sys

from triptych.simulator.outcome import simulate
from triptych.simulator.reading import load_scenario, names

SCENARIOS = tuple(name for name in names() if name != "quiet")


def main() -> None:
    for seed in range(int(sys.argv[1])):
        scenario = SCENARIOS[seed % len(SCENARIOS)]
        if violated := simulate(load_scenario(scenario), seed).first:
            _, invariant, detail = violated
            print(f"{seed + 1} runs: {scenario}, seed {seed}: {invariant}: {detail}")
            return
    print("survives")


if __name__ == "__main__":
    main()
