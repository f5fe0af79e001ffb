"""What is timed, against what: a suite makes the rows of its table, whose contenders took turns.

The first weights and the examples of the loop are those of replica 0, and before anything is timed the mean losses
of both over the first steps are compared, so that the same work is timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks import report, vision
from benchmarks.naive import loop_for
from benchmarks.ours import Ours, Setting, populations, single_step_share
from benchmarks.timing import Contender, interleave, seconds
from lopbench.population import Population


@dataclass(frozen=True)
class Row:
    """One line of a table. Arrays hold a value a round; times are microseconds a step of the whole population."""

    case: str
    replicas: int
    executor: str
    per_step: np.ndarray  #: rare work and tables included, each in its share
    ratio: np.ndarray  #: per_step a replica, over the loop's step
    hot: np.ndarray  #: a step without rare work
    rare: np.ndarray | None = None  #: a step that runs singly, with rare work
    rare_share: float = 0.0  #: how many of the steps do
    tables: float = 0.0  #: of a step's time, what making an epoch's or a task's tables takes
    compile_seconds: float = math.nan


Cases = Mapping[str, Population]

REGRESSION = "quickstart.gin"
PERMUTED_MNIST = {
    "plain SGD": "permuted_mnist/sgd.gin",
    "SWR": "permuted_mnist/swr.gin",
    "continual backpropagation": "permuted_mnist/continual_backprop.gin",
    "ReDo": "permuted_mnist/redo.gin",
}


def single(setting: Setting) -> list[Row]:
    """One network under plain SGD: what a population of one costs over a loop."""
    (image_network,) = populations(setting, PERMUTED_MNIST["plain SGD"], 1).values()
    regression_network = populations(setting, REGRESSION, 1)["sgd"]
    return [
        *compare(setting, {"permuted MNIST, 3 x 100, R = 1": image_network}, "permuted MNIST, loop"),
        *compare(setting, {"regression, 5 units, R = 1": regression_network}, "regression, loop"),
    ]


def quickstart(setting: Setting) -> list[Row]:
    """The five variants of the quickstart, and plain SGD in other numbers of replicas."""
    cases = {f"{name}, R = 30": found for name, found in populations(setting, REGRESSION, 30).items()}
    for replicas in (1, 100):
        cases[f"sgd, R = {replicas}"] = populations(setting, REGRESSION, replicas)["sgd"]
    return compare(setting, cases)


def permuted_mnist(setting: Setting) -> list[Row]:
    """Plain SGD and three methods on the network of 3 x 100 units, as their gin files have them."""
    cases = {}
    for name, gin_file in PERMUTED_MNIST.items():
        for replicas in (1, 30) if setting.quick else (1, 8, 30):
            (cases[f"{name}, R = {replicas}"],) = populations(setting, gin_file, replicas).values()
    return compare(setting, cases, with_loader=True)


def compare(setting: Setting, cases: Cases, loop: str = "loop", with_loader: bool = False) -> list[Row]:
    """Time all cases, and the loop of one network on the same stream, in turns, all on the same number of threads."""
    any_population = next(iter(cases.values()))
    loops = {loop: Contender(loop_for(any_population).advance)}
    if with_loader:
        loops[f"{loop}, DataLoader"] = Contender(loop_for(any_population, loader=True).advance)
    contenders, sides, compiling = dict(loops), {}, {}
    for name, population in cases.items():
        side = sides[name] = Ours(setting, population)
        block = side.choice.block_steps
        compiling[name] = seconds(partial(check_same_work, side, block))
        contenders[name] = Contender(side.hot, multiple=block, most=side.steps_per_table)
        if side.has_rare_work:
            compiling[name] += seconds(partial(side.rare, 1))
            contenders[f"{name}, rare work"] = Contender(side.rare, most=side.steps_per_table)
    threads = {side.choice.threads for side in sides.values()}
    assert len(threads) == 1, f"the contenders of a table share the number of threads, but would choose {threads}"
    times = interleave(contenders, setting.rounds, setting.lasting, setting.clock)
    reference = times[loop]
    rows = [Row(name, 1, "", times[name], times[name] / reference, times[name]) for name in loops]
    for name, side in sides.items():
        assert side.all_alive(), f"{name}: a replica turned non-finite while it was timed"
        share = single_step_share(side.population, side.choice.block_steps)
        tables = 1e6 * side.tables_seconds / side.steps_per_table
        hot, rare = times[name], times.get(f"{name}, rare work")
        per_step = hot + tables if rare is None else (1 - share) * hot + share * rare + tables
        replicas = side.population.replicas
        executor = f"{side.choice.executor}, {side.choice.block_steps}, {side.choice.threads}"
        ratio = per_step / replicas / reference
        rows.append(Row(name, replicas, executor, per_step, ratio, hot, rare, share, tables, compiling[name]))
    return rows


def check_same_work(side: Ours, steps: int) -> None:
    """The first steps of replica 0 have the losses of the loop; the first call, so that it compiles too."""
    ours, loop = side.hot(steps), loop_for(side.population).advance(steps)
    # noise and penalties of a method move the losses of the steps after the first
    plain = all(type(strategy).__name__ == "Baseline" for strategy in side.population.strategies)
    tolerance = 1e-4 if plain else 0.1
    assert abs(ours - loop) <= tolerance * loop, f"mean loss of the first {steps} steps: ours {ours}, the loop's {loop}"


def tables(rows: Callable[[Setting], list[Row]]) -> Callable[[Setting], str]:
    """A suite that gives its rows as a table."""
    return lambda setting: report.table(rows(setting))


#: a suite gives its table as text
SUITES: dict[str, Callable[[Setting], str]] = {
    "single": tables(single),
    "quickstart": tables(quickstart),
    "permuted_mnist": tables(permuted_mnist),
    "swr_vit": lambda setting: vision.table(vision.projections(setting)),
}
