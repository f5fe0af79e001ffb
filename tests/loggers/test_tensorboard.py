"""TensorBoard's own reader finds the table's values, means and bands, configs, hyperparameters and layout."""

import json

import numpy as np
import pytest
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lopbench.analysis.results import load
from lopbench.loggers.records import Record, Replica
from lopbench.loggers.table import Table
from lopbench.loggers.tensorboard import TensorBoard

RATE, FACTOR = "optimizers.SGD.learning_rate", "strategies.SelectiveWeightReinit.reinit_factor"
TASK = "task/online_accuracy"


def seeds(count: int, variant: str = "base", hyper: dict | None = None, first: int = 0) -> list[Replica]:
    return [Replica(first + seed, variant, seed, hyper or {}) for seed in range(count)]


def runs(workdir) -> list[str]:
    root = workdir / "tensorboard"
    return sorted({str(file.parent.relative_to(root)) for file in root.rglob("events.out.tfevents.*")})


def reader(workdir, run: str) -> EventAccumulator:
    accumulator = EventAccumulator(str(workdir / "tensorboard" / run), size_guidance={"scalars": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def scalars(workdir, run: str, tag: str) -> tuple[list[int], np.ndarray]:
    found = reader(workdir, run)
    events = found.Scalars(tag) if tag in found.Tags()["scalars"] else []
    return [event.step for event in events], np.array([event.value for event in events])


def some_records(step: int, size: int, rng: np.random.Generator) -> list[Record]:
    return [Record(step, step // 10, tag, rng.normal(size=size)) for tag in (TASK, "online/loss")]


def test_values_are_the_tables_to_single_precision(tmp_path):
    replicas = seeds(3) + seeds(2, "swr", first=3)
    rng = np.random.default_rng(0)
    loggers = Table(tmp_path, replicas), TensorBoard(tmp_path, replicas, total_steps=40)
    for step in range(10, 41, 10):
        for population in (replicas[:3], replicas[3:]):
            records = some_records(step, len(population), rng)
            for logger in loggers:
                logger.write(population, records)
    for logger in loggers:
        logger.close()
    base, swr = [f"base/seed_00{i}" for i in range(3)], [f"swr/seed_00{i}" for i in range(2)]
    assert runs(tmp_path) == ["base/mean", *base, "swr/mean", *swr]
    for (variant, seed, tag), rows in load(tmp_path).groupby(["variant", "seed", "tag"]):
        steps, values = scalars(tmp_path, f"{variant}/seed_{seed:03d}", tag)
        assert steps == list(rows["step"])
        np.testing.assert_array_equal(values, rows["value"].to_numpy(np.float32))


def test_the_mean_and_its_student_interval_leave_dead_replicas_out(tmp_path):
    replicas = seeds(5)
    values = np.array([[1.0, 2.0, 4.0, 7.0, 11.0], [1.0, np.nan, 4.0, np.inf, 7.0], [1.0, np.nan, 4.0, np.nan, np.nan]])
    logger = TensorBoard(tmp_path, replicas, total_steps=3)
    for step, row in enumerate(values, start=1):
        logger.write(replicas, [Record(step, 0, TASK, row)])
    logger.close()
    steps, means = scalars(tmp_path, "base/mean", TASK)
    assert steps == [1, 2, 3]
    np.testing.assert_allclose(means, [5.0, 4.0, 2.5])
    steps, lower = scalars(tmp_path, "base/mean", "task_interval/online_accuracy.lower")
    _, upper = scalars(tmp_path, "base/mean", "task_interval/online_accuracy.upper")
    assert steps == [1, 2]  # two replicas have no interval
    for row, low, high in zip(values, lower, upper, strict=False):
        finite = row[np.isfinite(row)]
        expected = stats.t.interval(0.95, len(finite) - 1, finite.mean(), stats.sem(finite))
        np.testing.assert_allclose((low, high), expected, rtol=1e-6)
    assert scalars(tmp_path, "base/seed_001", TASK)[0] == [1]  # nothing after its death


def test_the_mean_waits_for_seeds_that_are_trained_in_another_population(tmp_path):
    replicas = seeds(4)
    logger = TensorBoard(tmp_path, replicas, total_steps=20)
    for step in (10, 20):
        logger.write(replicas[:2], [Record(step, 0, TASK, np.array([1.0, 2.0]))])
    logger.write(replicas[2:], [Record(10, 0, TASK, np.array([3.0, 6.0]))])
    logger.close()
    steps, means = scalars(tmp_path, "base/mean", TASK)
    assert steps == [10]
    np.testing.assert_allclose(means, [3.0])


def test_runs_are_named_by_what_varies(tmp_path):
    """Within a variant; between variants their names tell enough."""
    replicas = seeds(1, "a b", {RATE: 1e-5, FACTOR: None}) + seeds(1, "a b", {RATE: 0.1, FACTOR: 0.5}, first=1)
    TensorBoard(tmp_path, [*replicas, *seeds(1, "base", {RATE: 0.2}, first=2)], total_steps=1).close()
    points = ("base", "a_b/learning_rate=1e-05,reinit_factor=off", "a_b/learning_rate=0.1,reinit_factor=0.5")
    assert runs(tmp_path) == sorted(f"{point}/{run}" for point in points for run in ("mean", "seed_000"))


def test_names_that_would_coincide_are_kept_apart(tmp_path):
    replicas = seeds(1, "a b") + seeds(1, "a_b", first=1)
    TensorBoard(tmp_path, replicas, total_steps=1).close()
    assert len(runs(tmp_path)) == 4


def test_replica_runs_are_bounded_and_each_point_shows_its_first_seeds(tmp_path):
    replicas = seeds(10, "base", {RATE: 0.1}) + seeds(10, "base", {RATE: 0.2}, first=10)
    replicas += seeds(3, "swr", {RATE: 0.1}, first=20)
    logger = TensorBoard(tmp_path, replicas, total_steps=1, max_replica_runs=5, max_hparams_runs=4)
    logger.write(replicas, [Record(1, 0, tag, np.arange(23.0)) for tag in (TASK, "online/loss")])
    logger.close()
    full = [
        *(f"base/learning_rate=0.1/seed_00{i}" for i in range(3)),
        *(f"base/learning_rate=0.2/seed_00{i}" for i in range(2)),
        *(f"swr/seed_00{i}" for i in range(3)),
    ]
    brief = {f"base/learning_rate=0.{rate}/seed_00{i}" for rate, i in ((2, 2), (1, 3), (2, 3), (1, 4))}
    found = {run: reader(tmp_path, run).Tags()["scalars"] for run in runs(tmp_path) if not run.endswith("mean")}
    assert {run for run, tags in found.items() if "online/loss" in tags} == set(full)
    assert {run for run, tags in found.items() if tags == [TASK]} == brief
    assert len(found) == len(full) + len(brief)
    assert scalars(tmp_path, "base/learning_rate=0.2/seed_001", TASK)[1] == [11.0]
    assert scalars(tmp_path, "base/learning_rate=0.2/seed_003", TASK)[1] == [13.0]
    np.testing.assert_allclose(scalars(tmp_path, "base/learning_rate=0.2/mean", TASK)[1], [14.5])  # of all ten


def test_runs_with_the_hyperparameters_alone_go_on_like_the_others(tmp_path):
    replicas = seeds(3)
    first = TensorBoard(tmp_path, replicas, total_steps=4, max_replica_runs=1)
    first.write(replicas, [Record(1, 0, TASK, np.ones(3))])
    first.sync()
    position = json.loads(json.dumps(first.position))
    first.write(replicas, [Record(2, 0, TASK, np.zeros(3))])  # after the checkpoint: cut off
    first.close()
    second = TensorBoard(tmp_path, replicas, total_steps=4, max_replica_runs=1, position=position)
    second.write(replicas, [Record(2, 0, TASK, np.full(3, 2.0))])
    second.close()
    for run in ("base/seed_000", "base/seed_002"):
        assert scalars(tmp_path, run, TASK) == ([1, 2], pytest.approx([1.0, 2.0]))
    assert len(list((tmp_path / "tensorboard" / "base" / "seed_002").iterdir())) == 1


@pytest.mark.parametrize("period", [1, 3, 10])
def test_curves_are_thinned_and_task_values_are_not(tmp_path, period):
    replicas = seeds(1)
    logger = TensorBoard(tmp_path, replicas, total_steps=1000, max_points=50)
    for step in range(0, 1001, period):
        logger.write(replicas, [Record(step, 0, tag, np.array([float(step)])) for tag in (TASK, "online/loss")])
    logger.close()
    assert scalars(tmp_path, "base/seed_000", TASK)[0] == list(range(0, 1001, period))
    for run in ("base/seed_000", "base/mean"):
        steps, values = scalars(tmp_path, run, "online/loss")
        assert 45 <= len(steps) <= 50
        assert steps == list(values)
        assert max(np.diff(steps)) <= 21 + period


def test_what_was_written_after_the_checkpoint_is_cut_off_on_resume(tmp_path):
    replicas = seeds(3)

    def write(logger: TensorBoard, steps: range, value: float) -> None:
        for step in steps:
            logger.write(replicas, [Record(step, 0, tag, np.full(3, value)) for tag in (TASK, "online/loss")])

    first = TensorBoard(tmp_path, replicas, total_steps=39, max_points=10)
    write(first, range(10, 22), -1.0)
    first.flush()
    position = json.loads(json.dumps(first.position))
    write(first, range(22, 40), -2.0)
    first.close()
    second = TensorBoard(tmp_path, replicas, total_steps=39, max_points=10, position=position)
    second.texts({"config.gin": "x = 1"})  # is there
    write(second, range(22, 40), 1.0)
    second.close()
    for run in ("base/seed_000", "base/mean"):
        assert len(list((tmp_path / "tensorboard" / run).iterdir())) == 1
        steps, values = scalars(tmp_path, run, TASK)
        assert steps == list(range(10, 40))
        np.testing.assert_array_equal(values, [-1.0] * 12 + [1.0] * 18)
        steps, values = scalars(tmp_path, run, "online/loss")
        assert steps == [10, *range(12, 40, 4)]  # as thinned as without a stop: 20 is of the stretch of 20 to 23
        np.testing.assert_array_equal(values, [-1.0] * 4 + [1.0] * 4)


def test_a_page_that_is_looking_on_sees_each_point_once(tmp_path):
    """It has read beyond the checkpoint; what the run writes again has the same length."""
    replicas = seeds(3)
    logger = TensorBoard(tmp_path, replicas, total_steps=9)
    for step in range(10):
        logger.write(replicas, [Record(step, 0, TASK, np.full(3, step / 7))])
        logger.flush()
        if step == 5:
            position = logger.position
        if step == 7:
            watching = EventAccumulator(str(tmp_path / "tensorboard" / "base/mean"), {"scalars": 0})
            assert len(watching.Reload().Scalars(TASK)) == 8
            break
    logger = TensorBoard(tmp_path, replicas, total_steps=9, position=position)
    for step in range(6, 10):
        logger.write(replicas, [Record(step, 0, TASK, np.full(3, step / 7))])
        logger.flush()
        watching.Reload()
    assert [point.step for point in watching.Scalars(TASK)] == list(range(10))


def test_a_curve_whose_file_is_lost_begins_where_the_run_goes_on(tmp_path, capsys):
    replicas = seeds(1)
    first = TensorBoard(tmp_path, replicas, total_steps=4)
    first.write(replicas, [Record(1, 0, TASK, np.array([1.0]))])
    first.flush()
    for path in (tmp_path / "tensorboard").rglob("events*"):
        path.write_bytes(path.read_bytes()[:-1])
    second = TensorBoard(tmp_path, replicas, total_steps=4, position=first.position)
    second.write(replicas, [Record(2, 0, TASK, np.array([2.0]))])
    second.close()
    assert scalars(tmp_path, "base/seed_000", TASK)[0] == [2]
    assert "earlier points" in capsys.readouterr().err


def test_files_are_appended_to_at_flush(tmp_path):
    now = [0.0]
    replicas = seeds(1)
    logger = TensorBoard(tmp_path, replicas, total_steps=2, flush_seconds=30, clock=lambda: now[0])
    logger.write(replicas, [Record(1, 0, TASK, np.array([1.0]))])
    assert runs(tmp_path) == []
    now[0] = 30.0
    logger.write(replicas, [Record(2, 0, TASK, np.array([2.0]))])
    assert scalars(tmp_path, "base/seed_000", TASK)[0] == [1, 2]


def test_configs_are_shown_verbatim(tmp_path):
    logger = TensorBoard(tmp_path, seeds(1), total_steps=1)
    logger.texts({"config.gin": "run.steps = 5\n# note\n\nrun.seeds = 3\n", "operative_config.gin": "x = 1"})
    logger.close()
    found = reader(tmp_path, "base/mean")
    text = found.Tensors("config/config.gin")[0].tensor_proto.string_val[0]
    assert text.decode() == "    run.steps = 5\n    # note\n    \n    run.seeds = 3"
    assert found.SummaryMetadata("config/operative_config.gin").plugin_data.plugin_name == "text"


def test_hyperparameters_are_in_the_replicas_own_file_under_one_set_of_columns(tmp_path):
    replicas = seeds(1, "base", {RATE: 0.1}) + seeds(1, "swr", {RATE: 0.2, FACTOR: None}, first=1)
    TensorBoard(tmp_path, replicas, total_steps=1, headline=(TASK,)).close()
    columns = []
    for run, values in {
        "base/seed_000": {"variant": "base", "seed": 0.0, RATE: 0.1},
        "swr/seed_000": {"variant": "swr", "seed": 0.0, RATE: 0.2},
    }.items():
        plugin = reader(tmp_path, run).PluginTagToContent("hparams")
        session = HParamsPluginData.FromString(plugin["_hparams_/session_start_info"]).session_start_info
        found = {name: value.string_value or value.number_value for name, value in session.hparams.items()}
        assert found == values
        experiment = HParamsPluginData.FromString(plugin["_hparams_/experiment"]).experiment
        columns.append([column.name for column in experiment.hparam_infos])
        assert [metric.name.tag for metric in experiment.metric_infos] == [TASK]
    assert columns == [["variant", "seed", RATE, FACTOR]] * 2


def hyperparameters(workdir, run: str) -> tuple[dict, dict]:
    """The types of a run's columns, and its values in them."""
    plugin = reader(workdir, run).PluginTagToContent("hparams")
    session = HParamsPluginData.FromString(plugin["_hparams_/session_start_info"]).session_start_info
    experiment = HParamsPluginData.FromString(plugin["_hparams_/experiment"]).experiment
    types = {column.name: api_pb2.DataType.Name(column.type) for column in experiment.hparam_infos}
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in session.hparams.items()}
    return types, values


def test_hyperparameters_may_be_numbers_texts_truth_values_and_off(tmp_path):
    values = [{RATE: 0.1, "a.text": "mean", "a.flag": True}, {RATE: None, "a.text": None, "a.flag": False}, {RATE: 3}]
    replicas = [Replica(i, f"v{i}", 7, hyper) for i, hyper in enumerate(values)]
    TensorBoard(tmp_path, replicas, total_steps=1, max_replica_runs=0).close()  # of those with the hparams alone, too
    found = [hyperparameters(tmp_path, f"v{i}/seed_007") for i in range(3)]
    number, text = "DATA_TYPE_FLOAT64", "DATA_TYPE_STRING"
    types = {"variant": text, "seed": number, RATE: number, "a.text": text, "a.flag": text}
    assert [columns for columns, _ in found] == [types] * 3
    assert [own for _, own in found] == [
        {"variant": "v0", "seed": 7, RATE: 0.1, "a.text": "mean", "a.flag": "True"},
        {"variant": "v1", "seed": 7, "a.text": "off", "a.flag": "False"},
        {"variant": "v2", "seed": 7, RATE: 3.0},
    ]


def test_every_run_has_the_same_layout_of_means_with_bands(tmp_path):
    TensorBoard(tmp_path, seeds(2), total_steps=1).close()
    layouts = []
    for run in runs(tmp_path):
        found = reader(tmp_path, run).Tensors("custom_scalars__config__")
        assert len(found) == 1
        layouts.append(layout_pb2.Layout.FromString(found[0].tensor_proto.string_val[0]))
    assert all(layout == layouts[0] for layout in layouts)
    series = layouts[0].category[0].chart[0].margin.series[0]
    assert (series.value, series.lower, series.upper) == (
        TASK,
        "task_interval/online_accuracy.lower",
        "task_interval/online_accuracy.upper",
    )
