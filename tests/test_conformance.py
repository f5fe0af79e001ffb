"""What every registered part must do, by kind. A new strategy gets one row in `ROWS`; other kinds need one only where
a part can't be built from its defaults (`SETTINGS`).

A strategy's row is checked in the eager executor in full, and compiled in one small graph of its own.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from lopbench import config
from lopbench.architectures import MLP
from lopbench.choosing import missing_compiler
from lopbench.events import Events
from lopbench.executors import Stacked
from lopbench.learner import call_task_hook, initial_state
from lopbench.loggers.records import Record
from lopbench.metrics import Evaluation
from lopbench.optimizers.adam import Adam
from lopbench.population import Population, map_tree, slice_replicas
from lopbench.probing import measure
from lopbench.protocols import Clock, Metric, Problem, Strategy, Stream, Tree, overrides
from lopbench.registry import KINDS, parts, per_replica_fields
from lopbench.strategies import (
    EWC,
    L2,
    Baseline,
    ContinualBackprop,
    HuberInit,
    HybridInit,
    L1Init,
    L2Init,
    ReDo,
    Reset,
    RestoreBest,
    SelectiveWeightReinit,
    ShrinkAndPerturb,
    ShrinkAndPerturbInit,
)
from lopbench.streams.sources import Generated
from lopbench.training import Plan, train
from lopbench.units import link_mask
from tests.helpers import TinyStream, run, tiny_population

config.import_parts()

PROBLEM = Problem((4,), 3, "cross_entropy")
TASK = 4  # updates in a task; rare work is due in updates 2, 4, 6, ...
WEIGHTS = ("hidden.0.weight", "output.weight")
HEAD = ("output.weight", "output.bias")
UNITS = ("hidden.0.weight", "hidden.0.bias", "output.weight")  # what feeds and reads the hidden units
ALL = ("hidden.0.weight", "hidden.0.bias", *HEAD)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As a run of tiny networks has it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def of_the_package(kind: str) -> dict[str, type]:
    """The parts of a kind that come with lopbench (other tests register theirs)."""
    return {name: part for name, part in parts(kind).items() if part.__module__.startswith("lopbench.")}


# Strategies -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What a strategy does to a network of 4 - 4 (tanh) - 3 under SGD with momentum, in tasks of 4 updates."""

    #: settings with which it acts in update 6, the second of the second task (or in the hook `at`)
    acts: Strategy
    #: the same, switched off: once for each way there is
    off: tuple[Strategy, ...] = ()
    #: parameters of which it moves entries outside of the optimizer's own update; none for a penalty
    moves: tuple[str, ...] = ()
    #: of these, those whose moved entries it reports as "reinitialized_weights"
    counts: tuple[str, ...] = ()
    #: momentum that starts afresh: of "moved" entries if its field `clear_optimizer` is True, of "all", of "none"
    clears: str = "none"
    #: "update", or the task hook in which it acts
    at: str = "update"
    #: what it must be told at the ends of epochs
    metrics: tuple[Metric, ...] = ()

    def __str__(self) -> str:
        set_ = [f"{f.name}={getattr(self.acts, f.name)}" for f in fields(self.acts) if f.name in ("when", "use_fisher")]
        return "-".join([type(self.acts).__name__, *set_])


def without(strategy: Strategy, *names: str) -> tuple[Strategy, ...]:
    """A strategy switched off: once by each of these fields."""
    return tuple(replace(strategy, **{name: None}) for name in names)  # type: ignore[type-var]


SWR = SelectiveWeightReinit(reinit_factor=0.5, period=2)
CBP = ContinualBackprop(replacement_rate=0.3, maturity_threshold=1)
REDO = ReDo(threshold=1.0, period=2)
HYBRID, PERTURB_INIT = HybridInit(l2_weight=0.1, l1_weight=0.1), ShrinkAndPerturbInit(shrink=0.1, perturb_scale=0.1)
PERIODIC_PERTURB = replace(PERTURB_INIT, when="period", period=2)
RESET_HEAD = Reset(parts=("head",), when="period", period=2)
VALIDATION = Evaluation(every="epoch_end", probe_size=50, probe_split="validation")

ROWS = [
    Row(Baseline()),
    Row(SWR, off=without(SWR, "reinit_factor", "period"), moves=ALL, counts=ALL, clears="moved"),
    Row(CBP, off=without(CBP, "replacement_rate"), moves=UNITS, counts=WEIGHTS, clears="moved"),
    Row(REDO, off=without(REDO, "threshold", "period"), moves=UNITS, counts=WEIGHTS, clears="moved"),
    Row(RESET_HEAD, off=without(RESET_HEAD, "period"), moves=HEAD, counts=HEAD, clears="moved"),
    Row(Reset(), moves=ALL, counts=ALL, clears="all", at="begin_task"),
    Row(RestoreBest(), moves=ALL, at="end_task", metrics=(VALIDATION,)),
    Row(ShrinkAndPerturb(0.1), off=(ShrinkAndPerturb(None),), moves=ALL),
    Row(PERTURB_INIT, off=(replace(PERTURB_INIT, shrink=None, perturb_scale=None),), moves=ALL),
    Row(PERIODIC_PERTURB, off=without(PERIODIC_PERTURB, "period"), moves=ALL),
    Row(replace(PERTURB_INIT, when="task"), moves=ALL, at="begin_task"),
    Row(EWC(ewc_weight=1.0), off=(EWC(ewc_weight=None),)),
    Row(EWC(1.0, use_fisher=True, fisher_examples=9), off=(EWC(None, use_fisher=True, fisher_examples=9),)),
    Row(L2(l2_weight=0.1), off=(L2(l2_weight=None),)),
    Row(L2Init(l2_weight=0.1), off=(L2Init(l2_weight=None),)),
    Row(L1Init(l1_weight=0.1), off=(L1Init(l1_weight=None),)),
    Row(HuberInit(huber_weight=0.1), off=(HuberInit(huber_weight=None),)),
    Row(HYBRID, off=(replace(HYBRID, l2_weight=None, l1_weight=None),)),
]
#: compiled: the first row of each strategy, in one graph
COMPILED = [row for i, row in enumerate(ROWS) if type(row.acts) not in {type(other.acts) for other in ROWS[:i]}]
EVERY_ROW = pytest.mark.parametrize("row", ROWS, ids=str)


def test_every_strategy_has_a_row() -> None:
    missing = of_the_package("strategies").keys() - {type(row.acts).__name__ for row in ROWS}
    assert not missing, (
        f"tests/test_conformance.py has no row in ROWS for {', '.join(sorted(missing))}: add one. "
        "Give settings with which it acts in update 6, the same switched off, and the parameters it may move."
    )


@EVERY_ROW
def test_every_field_that_may_be_off_is_switched_off_in_a_row(row: Row) -> None:
    strategy = type(row.acts)
    rows = [other for other in ROWS if type(other.acts) is strategy]
    hints = typing.get_type_hints(strategy)
    for name in per_replica_fields(strategy):
        if type(None) in typing.get_args(hints[name]):
            assert any(getattr(off, name) is None for other in rows for off in other.off), f"{name} = None is in no row"


@dataclass(frozen=True)
class Prepared(TinyStream):
    """TinyStream with a task's batches drawn beforehand, so that a compiled step is the strategy's own work.

    A task is two epochs.
    """

    steps_per_task: int = TASK

    def epoch_length(self, task: int) -> int:
        return TASK // 2

    def prepare(self, step: int) -> Tree:
        steps = step // TASK * TASK + torch.arange(TASK)
        x, y = self._draw(self.seeds, "batch", steps, self.batch_size)
        return {"x": x.movedim(1, 0), "y": y.movedim(1, 0)}

    def batches(self, tables: Tree, clock: Clock, n: int) -> tuple[Tensor, Tensor]:
        steps = (clock.step_in_task + torch.arange(n)).clamp(max=TASK - 1)
        return tables["x"][:, steps].movedim(1, 0), tables["y"][:, steps].movedim(1, 0)


def population(*replicas: Strategy) -> Population:
    """One replica for each of these strategies (which differ in PerReplica fields at most), in float64."""
    module = MLP(PROBLEM, width=4, depth=1, activation="tanh")
    made = tiny_population([replicas], module=module, replicas=len(replicas), dtype=torch.float64, steps_per_task=TASK)
    return replace(made, stream=Prepared(made.seeds, dtype=torch.float64))


@functools.cache
def trained(
    strategies: tuple[Strategy, ...], metrics: tuple[Metric, ...] = (), updates: int = 30, block: str = "eager"
) -> tuple[Tree, list[Record]]:
    """The end of a whole run through `train`, task changes included, and its records. Every step is a single one."""
    made, records = population(*strategies), list[Record]()
    executor = Stacked(made, 100, block)
    return train(made, executor, Plan(updates, TASK, metrics), records.extend), records


def assert_close(a: Tree, b: Tree, tolerance: float = 1e-9) -> None:
    assert layout(a) == layout(b)
    closeness = {"rtol": tolerance, "atol": tolerance, "equal_nan": True}  # NaN is off
    map_tree(lambda x, y: torch.testing.assert_close(x, y, **closeness), a, b)


def assert_bits(a: Tree, b: Tree) -> None:
    assert_close(a, b, tolerance=0)


def only(state: Tree, replica: int) -> Tree:
    learner = {branch: state[branch] for branch in ("parameters", "optimizer")}
    return slice_replicas(learner, slice(replica, replica + 1))


def layout(tree: Any) -> Any:
    """Keys in their order, dtypes and shapes: what a compiled graph depends on."""
    return [(key, layout(value)) for key, value in tree.items()] if isinstance(tree, dict) else (tree.dtype, tree.shape)


@EVERY_ROW
def test_a_run_stays_finite_keeps_the_state_s_layout_and_reports(row: Row) -> None:
    end, records = trained((row.acts, *row.off), row.metrics)
    assert end["alive"].all()
    assert layout(end) == layout(initial_state(population(row.acts, *row.off)))
    tags = {record.tag for record in records}
    assert {f"strategy/{tag}" for tag in row.acts.reports} <= tags


@EVERY_ROW
def test_switched_off_it_changes_nothing_to_the_bit(row: Row) -> None:
    end, _ = trained((row.acts, *row.off), row.metrics)
    plain, _ = trained((Baseline(),) * (1 + len(row.off)))
    for replica in range(1, 1 + len(row.off)):
        assert_bits(only(end, replica), only(plain, replica))
    if not isinstance(row.acts, Baseline):
        with pytest.raises(AssertionError):  # while switched on it does
            assert_close(only(end, 0), only(plain, 0))


@EVERY_ROW
def test_a_replica_alone_is_the_replica_among_others(row: Row) -> None:
    alone, _ = trained((row.acts,), row.metrics)
    among, _ = trained((row.acts, *(row.off or (row.acts,))), row.metrics)
    assert_close(alone, slice_replicas(among, slice(0, 1)))


@dataclass(frozen=True)
class Moment:
    """The moment in which a strategy acts: parameters and momentum with it, and without."""

    reported: Tensor  # [R] "reinitialized_weights"; zeros if it reports none
    parameters: Tree
    momentum: Tree
    plain_parameters: Tree  # as the optimizer alone would have left them
    plain_momentum: Tree


def clock_after(updates: int) -> Clock:
    return Clock(*(torch.tensor(value) for value in (updates, *divmod(updates, TASK))))


def evaluated(p: Population, state: Tree, done: int, metrics: tuple[Metric, ...]) -> Tree:
    """The state after `done` updates, had an epoch ended there and the strategies been told what the metrics gave."""
    if not metrics:
        return state
    task = done // TASK
    return call_task_hook(p, state, clock_after(done), "after_evaluation", task, measure(p, state, metrics, task))


def moment(row: Row, strategy: Strategy) -> Moment:
    """One update (the first from 6 on in which something is due), or the task hook, from the same state."""
    p, plain = population(strategy, strategy), population(Baseline(), Baseline())
    due = Events(p).until(TASK + 1, 50)
    done = TASK + 1 + (due[0][0] if due else 0)
    before = run(p, 1, evaluated(p, run(p, done - 1), done - 1, row.metrics), done - 1)
    before["online"] = map_tree(torch.zeros_like, before["online"])
    if row.at == "update":
        after = run(p, 1, before, done)
        base = {**initial_state(plain), **{key: before[key] for key in ("parameters", "buffers", "optimizer")}}
        base = run(plain, 1, base, done)
        if overrides(strategy, "penalty") or overrides(strategy, "change_gradients"):  # the optimizer's own update:
            momentum, rates = after["optimizer"]["momentum"], before["hyper"]["optimizer"]["learning_rate"]
            base["parameters"] = map_tree(lambda w, m: w - rates[0] * m, before["parameters"], momentum)
    else:
        after = call_task_hook(p, before, clock_after(done), row.at, task=1)
        base = before
    reported = after["online"].get("reinitialized_weights", torch.zeros(2))
    return Moment(
        reported, after["parameters"], after["optimizer"]["momentum"], base["parameters"], base["optimizer"]["momentum"]
    )


def with_both_settings_of_clear_optimizer(row: Row) -> list[Strategy]:
    if row.clears != "moved":
        return [row.acts]
    return [replace(row.acts, clear_optimizer=clear) for clear in (False, True)]  # type: ignore[type-var]


@EVERY_ROW
def test_only_its_own_entries_move_and_as_many_as_it_reports(row: Row) -> None:
    for strategy in with_both_settings_of_clear_optimizer(row):
        seen = moment(row, strategy)
        moved = {
            name: (~torch.isclose(value, seen.plain_parameters[name], rtol=1e-12, atol=1e-12)).flatten(1).sum(dim=1)
            for name, value in seen.parameters.items()
        }
        assert {name for name, count in moved.items() if count.any()} == set(row.moves)
        if row.counts:
            assert seen.reported.tolist() == sum(moved[name] for name in row.counts).tolist()


@EVERY_ROW
def test_momentum_starts_afresh_where_declared_and_nowhere_else(row: Row) -> None:
    penalised = overrides(row.acts, "penalty") or overrides(row.acts, "change_gradients")
    for strategy in with_both_settings_of_clear_optimizer(row):
        seen = moment(row, strategy)
        for name, momentum in seen.momentum.items():
            kept = seen.plain_momentum[name]
            if row.clears == "moved" and strategy.clear_optimizer:  # type: ignore[attr-defined]
                moved = seen.parameters[name] != seen.plain_parameters[name]
                assert torch.equal(momentum, torch.where(moved, 0.0, kept))
            elif row.clears == "all":
                assert not momentum.any()
            elif penalised:  # it has the penalty's gradient in it, rightly
                assert momentum.all() and not torch.equal(momentum, kept)
            else:
                assert torch.equal(momentum, kept)


@pytest.fixture
def quick_to_compile() -> Iterator[None]:
    """Scalar loops, which compile in half the time (tests/test_laws.py compiles as a run does)."""
    missing = missing_compiler(torch.device("cpu"))
    if missing:
        pytest.skip(missing)
    with torch._inductor.config.patch({"cpp.simdlen": 1}):
        yield


@pytest.mark.parametrize("row", COMPILED, ids=str)
def test_compiled_it_is_one_graph_that_agrees_with_the_eager_executor(row: Row, quick_to_compile: None) -> None:
    """8 updates in two tasks, with rare work due and not due, switched on beside switched off."""
    strategies = (row.acts, *row.off)
    graphs = counters["stats"]["unique_graphs"]
    end, _ = trained(strategies, row.metrics, updates=8, block="compiled")
    assert counters["stats"]["unique_graphs"] - graphs == 1
    assert_close(end, trained(strategies, row.metrics, updates=8)[0])
    plain, _ = trained((Baseline(),) * len(strategies), updates=8)
    for replica in range(1, len(strategies)):
        assert_close(only(end, replica), only(plain, replica))


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_captured_it_is_the_eager_executor_to_the_bit(row: Row) -> None:
    """A whole run on buffers that stay where they are (recorded as a graph on a GPU only), with its task hooks."""
    strategies = (row.acts, *row.off)
    assert_bits(trained(strategies, row.metrics, block="captured")[0], trained(strategies, row.metrics)[0])


# Parts of every kind --------------------------------------------------------------------------------

IMAGES = Generated(classes=4, shape=(3, 4, 4), train_size=2500, test_size=50)
OF_IMAGES = Problem((3, 4, 4), 4, "cross_entropy")
#: constructor arguments of parts that defaults alone don't make
SETTINGS: dict[str, dict[str, Any]] = {
    "sources.Arrays": {"path": "digits.npz"},
    "sources.ImageFolder": {"path": "pictures", "size": 4},
    "streams.ClassIncremental": {"classes_per_task": 2},
    "streams.ClassSequence": {"test_per_class": 10},
    "architectures.ConvNet": {"channels": (4,), "kernels": (3,), "hidden": (5,)},
    "architectures.ResNet18": {"width": 2},
    "architectures.VisionTransformer": {"patch_size": 2, "depth": 1, "heads": 2, "width": 4, "mlp_width": 8},
}


@functools.cache
def images() -> Any:
    return IMAGES.load(None, "cpu")


def build(kind: str, name: str, **runtime: Any) -> Any:
    """A part from its defaults."""
    return parts(kind)[name](**runtime, **SETTINGS.get(f"{kind}.{name}", {}))


def every(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", of_the_package(kind))


def three_updates(changed: Population) -> Tree:
    """The state after three eager updates, which must have moved every replica and kept the state's layout."""
    start = initial_state(changed)
    end = run(changed, 3, start)
    assert end["alive"].all()
    assert layout(end) == layout(start)
    for before, after in zip(start["parameters"].values(), end["parameters"].values(), strict=True):
        assert (before != after).flatten(1).any(dim=1).all()
    return end


@pytest.mark.parametrize("kind, name", [(kind, name) for kind in KINDS for name in of_the_package(kind)])
def test_it_is_documented_and_built_alike_from_the_same_settings(kind: str, name: str) -> None:
    assert (inspect.getdoc(parts(kind)[name]) or "").splitlines()[0].strip()
    seeds = torch.tensor([3, 2**40 + 1])
    stream = kind == "streams" and {"seeds": seeds, "dtype": torch.float32, "data": _data(parts(kind)[name])}
    runtime = stream or {"architectures": {"problem": OF_IMAGES}, "schedules": {"steps_per_task": 5}}.get(kind, {})
    first, second = build(kind, name, **runtime), build(kind, name, **runtime)
    assert repr(first) == repr(second)
    if kind not in ("streams", "architectures"):  # parts that are compared when variants are grouped
        assert first == second


def _data(stream: type) -> Any:
    return images() if stream.needs_source else None  # type: ignore[attr-defined]


@every("streams")
def test_a_stream_trains_and_keeps_its_shapes(name: str) -> None:
    seeds = torch.tensor([3, 2**40 + 1])
    stream: Stream = build("streams", name, data=_data(parts("streams")[name]), seeds=seeds, dtype=torch.float64)
    assert stream.task_length(0) >= 3
    assert 0 < stream.next_boundary(0) <= stream.task_length(0)
    assert stream.locate(stream.task_length(0)) == (1, 0) and stream.task_start(1) == stream.task_length(0)
    problem = stream.problem
    inputs, targets = stream.batches(stream.prepare(0), Clock(*[torch.tensor(0)] * 3), 2)
    probe_inputs, probe_targets = stream.probe("train", 5, 0)
    assert inputs.shape[:2] == (2, 2) and probe_inputs.shape[:2] == (2, 5)
    for x, y in ((inputs[0], targets[0]), (probe_inputs, probe_targets)):
        assert x.dtype == torch.float64 and x.shape[2:] == problem.input_shape
        if problem.loss == "cross_entropy":
            assert y.dtype == torch.int64 and y.shape == x.shape[:2] and y.max() < problem.outputs
        else:
            assert y.dtype == torch.float64 and y.shape == (*x.shape[:2], problem.outputs)
    module = MLP(problem, width=4, depth=1, activation="tanh")
    plain = tiny_population(module=module, seeds=seeds.tolist(), dtype=torch.float64)
    assert initial_state(replace(plain, stream=stream))["alive"].all()
    end = run(replace(plain, stream=stream), 3)
    assert end["alive"].all() and end["online"]["steps"].tolist() == [3, 3]


@every("sources")
def test_a_source_gives_examples_or_an_imitation_of_them(name: str, tmp_path: Path) -> None:
    source = build("sources", name)
    if name in ("Arrays", "ImageFolder"):
        _write_examples(tmp_path)
        data = source.load(str(tmp_path), "cpu")
    else:
        imitated = source.imitation()
        data = replace(imitated, train_size=20, test_size=10).load(None, "cpu")
        assert data.shape == imitated.shape and data.classes == getattr(source, "classes", imitated.classes)
    assert data.inputs.keys() == data.labels.keys() and "train" in data.inputs
    for split, inputs in data.inputs.items():
        assert inputs.shape[1:] == data.shape and len(inputs) == len(data.labels[split])
        assert data.labels[split].min() >= 0 and data.labels[split].max() < data.classes


def _write_examples(folder: Path) -> None:
    """What the rows of `Arrays` and `ImageFolder` read: four images of two classes."""
    from PIL import Image

    pixels = np.arange(4 * 16, dtype=np.uint8).reshape(4, 4, 4)
    np.savez(folder / "digits.npz", train_inputs=pixels, train_labels=np.array([0, 1, 0, 1]))
    for number, image in enumerate(pixels):
        place = folder / "pictures" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")


@every("architectures")
def test_an_architecture_trains_and_declares_what_it_has(name: str) -> None:
    stream = build("streams", "PermutedInputs", data=images(), seeds=torch.tensor([3, 4]), dtype=torch.float64)
    module = build("architectures", name, problem=stream.problem)
    p = replace(tiny_population(module=module, seeds=[3, 4], dtype=torch.float64), stream=stream)
    assert list(p.records) == [parameter for parameter, _ in module.named_parameters()]
    three_updates(p)
    outputs, features = module(torch.zeros(5, *stream.problem.input_shape))
    assert outputs.shape == (5, stream.problem.outputs)
    shapes = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for group in p.groups:
        size = group.units * group.feature_tile * group.feature_block
        assert features[group.feature].shape[group.feature_axis] == size
        links = (group.weight, group.bias, group.norm_weight, group.norm_bias, group.norm_mean, group.norm_variance)
        for link in (*(link for link in links if link is not None), *group.readers):
            entry = shapes[link.parameter][None]
            one = torch.zeros(1, group.units, dtype=torch.bool)
            one[:, 0] = True
            assert link_mask(group, link, one, entry).sum() * group.units == entry.numel()


@every("optimizers")
def test_an_optimizer_trains_and_clears_what_it_is_told_to(name: str) -> None:
    rule = build("optimizers", name)
    module = MLP(PROBLEM, width=4, depth=1, activation="tanh")
    p = tiny_population(module=module, dtype=torch.float64, optimizer=rule)
    end = three_updates(p)
    full = rule.init(end["parameters"])  # every slot that there is
    full = map_tree(torch.ones_like, full)
    mask = torch.zeros_like(end["parameters"]["output.weight"], dtype=torch.bool)
    mask[1, 0] = True
    cleared = rule.clear(full, "output.weight", mask)
    assert layout(cleared) == layout(full)
    for slot, entries in cleared.items():
        for parameter, value in (entries if isinstance(entries, dict) else {slot: entries}).items():
            expected = ~mask if parameter == "output.weight" else torch.ones_like(value)
            assert torch.equal(value.double(), expected.double())


@every("schedules")
def test_a_schedule_gives_the_optimizer_s_hyperparameters(name: str) -> None:
    schedule = build("schedules", name, steps_per_task=5)
    p = replace(tiny_population(dtype=torch.float64, optimizer=Adam()), schedule=schedule)
    hyper = initial_state(p)["hyper"]["optimizer"]
    for step in range(7):
        values = schedule.values(hyper, Clock(*(torch.tensor(value) for value in (step, step // 5, step % 5))))
        assert layout(dict(sorted(values.items()))) == layout(dict(sorted(hyper.items())))
        assert all(bool(torch.isfinite(value).all()) for value in values.values())
    three_updates(p)


@every("metrics")
def test_a_metric_gives_one_value_a_replica_and_changes_nothing(name: str) -> None:
    metric = build("metrics", name)
    made = population(Baseline(), Baseline())
    records: list[Record] = []

    def end(*metrics: Any) -> Tree:
        return train(made, Stacked(made, 3), Plan(TASK, 3, metrics), records.extend)

    plain = end()
    usual = {record.tag for record in records}
    records.clear()
    assert_bits(end(metric), plain)
    measured = [record for record in records if record.tag not in usual]
    assert measured and all(record.values.shape == (2,) and np.isfinite(record.values).all() for record in measured)
    assert all(record.tag.count("/") == 1 for record in measured)
