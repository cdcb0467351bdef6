"""How often 95% intervals hold the truth, by simulation, for each rule and number of documents.

    python scripts/results/coverage.py            # under a minute

Each document has one to twenty questions (half of them under three) and luck of its own: the score
of a question agrees with that of another about the same document with correlation 0.3. Scores are
0 or 1 with the mean given, or anything between (graded); paired are differences of two such
systems, of which the second changes a share of the answers and gains a little. Prints the share of
simulated test sets whose interval holds the true mean, the worst of each rule, and how wide it is.
"""

import sys
from collections.abc import Callable

import numpy as np

from ragkit.evaluation.clustered import (
    UNBOUNDED,
    Clustered,
    Floats,
    Range,
    opened_at_ends,
    percentile_bounds,
    resampled_means,
    t_bounds,
)

TEST_SETS, LAYOUTS, SAMPLES = 2_000, 4, 2_000
CORRELATION = 0.3
DOCUMENTS = (14, 30, 50, 100, 200, 500, 1_000)

Simulation = Callable[[np.random.Generator, Floats], tuple[Floats, float]]
RULES: dict[str, Callable[[Clustered, Range], Floats]] = {
    "percentile": lambda data, within: percentile_bounds(resampled_means(data, SAMPLES, 0), 0.95),
    "t": lambda data, within: t_bounds(data, 0.95),
    "t of logit": lambda data, within: opened_at_ends(
        t_bounds(data, 0.95, within), data, 0.95, within
    ),
}


def lucks(rng: np.random.Generator, mean: float, shape: tuple[int, ...]) -> Floats:
    """Draw the means of documents, such that two questions of one correlate."""
    strength = (1 - CORRELATION) / CORRELATION
    return rng.beta(mean * strength, (1 - mean) * strength, shape)


def binary(mean: float) -> Simulation:
    """Simulate scores of 0 or 1."""
    return lambda rng, sizes: (
        rng.binomial(sizes.astype(int), lucks(rng, mean, sizes.shape)).astype(float),
        mean,
    )


def graded(rng: np.random.Generator, sizes: Floats) -> tuple[Floats, float]:
    """Simulate scores between 0 and 1 that lie around the luck of their document."""
    luck = lucks(rng, 0.45, sizes.shape)
    sums = np.zeros(sizes.shape)
    for i in range(int(sizes.max())):
        scores = rng.beta(1.2 * luck + 1e-9, 1.2 * (1 - luck) + 1e-9)
        sums += np.where(i < sizes, scores, 0)
    return sums, 0.45


def difference(changed: float, gain: float) -> Simulation:
    """Simulate differences: a share of the answers changes, more of them to the better."""

    def simulate(rng: np.random.Generator, sizes: Floats) -> tuple[Floats, float]:
        changes = rng.binomial(sizes.astype(int), lucks(rng, changed, sizes.shape))
        better = rng.binomial(changes, (changed + gain) / 2 / changed)
        return (2 * better - changes).astype(float), gain

    return simulate


MEANS: dict[str, Simulation] = {
    "mean 0.5": binary(0.5),
    "mean 0.8": binary(0.8),
    "mean 0.9": binary(0.9),
    "mean 0.97": binary(0.97),
    "graded": graded,
}
PAIRED: dict[str, Simulation] = {
    "paired, 0.3 change": difference(0.3, 0.05),
    "paired, 0.1 change": difference(0.1, 0.03),
}


def covered(simulate: Simulation, n: int, within: Range) -> dict[str, tuple[float, float]]:
    """Return of each rule the share of intervals that hold the truth, and their mean width."""
    found: dict[str, list[tuple[float, float]]] = {rule: [] for rule in RULES}
    for layout in range(LAYOUTS):
        rng = np.random.default_rng([n, layout])
        sizes = np.minimum(rng.geometric(0.3, n), 20).astype(float)
        sums, truth = simulate(rng, np.tile(sizes, (TEST_SETS // LAYOUTS, 1)))
        for rule, bounds_of in RULES.items():
            low, high = bounds_of(Clustered(sums, sizes), within)
            held = (low <= truth) & (truth <= high)
            found[rule].append((float(held.mean()), float((high - low).mean())))
    return {rule: tuple(np.mean(of, axis=0).tolist()) for rule, of in found.items()}


def table(kind: str, simulations: dict[str, Simulation], within: Range) -> None:
    """Print the coverage of each rule, a line a simulation and number of documents."""
    rules = [rule for rule in RULES if rule != "t of logit" or within != UNBOUNDED]
    print(f"{kind}: share of 95% intervals that hold the truth (mean width)")
    print(f"{'documents':>9}  {'scores':20}" + "".join(f"{rule:>18}" for rule in rules))
    for n in DOCUMENTS:
        worst = dict.fromkeys(rules, 1.0)
        for name, simulate in simulations.items():
            cells = covered(simulate, n, within)
            worst = {rule: min(worst[rule], cells[rule][0]) for rule in rules}
            line = "".join(f"{100 * cells[r][0]:>10.1f}% ({cells[r][1]:.2f})" for r in rules)
            print(f"{n:>9}  {name:20}{line}", flush=True)
        low = ", ".join(f"{rule} {100 * least:.1f}%" for rule, least in worst.items())
        print(f"{n:>9}  worst: {low}", flush=True)


def main() -> None:
    """Print both tables."""
    table("means", MEANS, (0.0, 1.0))
    table("paired differences", PAIRED, UNBOUNDED)


if __name__ == "__main__":
    sys.exit(main())
