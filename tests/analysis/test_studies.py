"""Studies and runs read back: every value where it belongs, how each run stands, and damage named and skipped."""

import json

import numpy as np
import pandas as pd
import pytest

from lopbench import lock
from lopbench.analysis.studies import read
from lopbench.errors import UserError
from lopbench.ledger import read as read_ledger
from tests.analysis.made_up import (
    ACCURACY,
    DEAD,
    FACTOR,
    LOSS,
    RATE,
    STEPS,
    Population,
    example,
    make_run,
    make_study,
    members,
    read_back,
)

ACTIVATION = "architectures.MLP.activation"


def values(tasks, replicas, seed=0):
    return np.random.default_rng(seed).normal(size=(tasks, replicas))


def matrix(study, tag):
    """The values of a tag, tasks by replicas."""
    return study.of(tag).pivot(index="task", columns="replica", values="value").to_numpy()


def test_every_value_is_where_it_belongs(tmp_path):
    swr = members("swr factor=0.1", 2, {FACTOR: 0.1}, "swr") + members("swr factor=off", [7], {FACTOR: None}, "swr")
    first, second = values(4, 2), values(4, 3, seed=1)
    make_study(tmp_path, Population(members("base", 2), {ACCURACY: first}), Population(swr, {ACCURACY: second}))
    study = read(tmp_path)
    np.testing.assert_array_equal(matrix(study, ACCURACY), np.hstack([first, second]))
    assert study.variants == ["base", "swr factor=0.1", "swr factor=off"] == list(study.rows["variant"].cat.categories)
    assert study.methods == ["base", "swr"]
    assert study.replicas["seed"].tolist() == [0, 1, 0, 1, 7]
    assert study.keys == (FACTOR,)
    assert study.keys_of("swr") == (FACTOR,)
    assert study.keys_of("base") == ()
    told = study.replicas.loc[study.rows["replica"], ["variant", "method", "seed", FACTOR]].reset_index(drop=True)
    pd.testing.assert_frame_equal(study.rows[told.columns].astype(told.dtypes), told)
    assert (study.rows["step"] == (study.rows["task"] + 1) * STEPS).all()
    np.testing.assert_array_equal(study.replicas[FACTOR], [np.nan, np.nan, 0.1, 0.1, np.nan])
    assert study.notes == []
    assert (study.replicas["status"] == "finished").all()


def test_a_made_up_study_is_one_that_lopbench_would_go_on_with(tmp_path):
    planned = read_ledger(example(tmp_path, seeds=2, tasks=2)).populations
    asked = [(m.variant, m.method, m.seed) for population in planned for m in population.replicas]
    found = read(tmp_path).replicas
    assert list(found[["variant", "method", "seed"]].itertuples(index=False, name=None)) == asked
    assert found["folder"].unique().tolist() == [str(tmp_path / population.folder) for population in planned]


def test_swept_values_that_are_no_numbers_stay_what_they_are():
    swept = [members(f"a{n}", 1, {ACTIVATION: value}, "a") for n, value in enumerate(["relu", None, True])]
    study = read_back(Population([m for point in swept for m in point], {ACCURACY: values(1, 3)}))
    assert study.replicas[ACTIVATION].tolist() == ["relu", None, True]


def test_only_the_tags_asked_for_are_read_and_all_are_known(tmp_path):
    make_study(tmp_path, Population(members("base", 1), {ACCURACY: values(2, 1), DEAD: values(2, 1)}))
    study = read(tmp_path, [DEAD])
    assert study.tags() == [ACCURACY, DEAD]
    assert set(study.rows["tag"]) == {DEAD}
    with pytest.raises(UserError, match=r"'task/online_accuracy'\. It was not among the tags to read"):
        study.of(ACCURACY)
    with pytest.raises(UserError, match=r"no records of 'units/ded'\. Did you mean units/dead"):
        study.of("units/ded")


def test_a_plain_run_tells_its_points_itself(tmp_path):
    everyone = members("swr reinit_factor=0.1", 2, {FACTOR: 0.1}, "swr") + members("base", 2, {})
    make_run(tmp_path, Population(everyone, {ACCURACY: values(2, 4)}), swept=True)
    study = read([tmp_path])
    assert study.replicas["method"].tolist() == ["swr", "swr", "base", "base"]
    assert study.variants == ["swr reinit_factor=0.1", "base"]
    assert (study.keys_of("swr"), study.keys_of("base")) == ((FACTOR,), ())


def test_a_run_that_did_not_sweep_has_a_method_for_each_variant(tmp_path):
    everyone = [m for rate in (0.1, 0.01) for m in members("sgd", 1, {RATE: rate})] + members("base", 1)
    make_run(tmp_path, Population(everyone, {ACCURACY: values(2, 3)}))
    study = read(tmp_path)
    assert study.variants == ["sgd, learning_rate=0.1", "sgd, learning_rate=0.01", "base"]
    assert study.methods == ["sgd", "base"]
    assert study.keys_of("sgd") == (RATE,)
    make_run(
        tmp_path / "b", Population(members("a", 1, {RATE: 0.1}) + members("b", 1, {RATE: 0.2}), {LOSS: [[1.0, 2.0]]})
    )
    study = read(tmp_path / "b")  # two methods, each of which has its own rate, are no sweep
    assert (study.variants, study.keys) == (["a", "b"], ())


def test_seeds_that_have_no_rows_yet_are_counted(tmp_path):
    make_run(tmp_path, Population(members("base", 2), {ACCURACY: values(1, 2)}, "interrupted"))
    told = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(told | {"seeds": {"base": [0, 1], "swr": [0, 1]}}))
    study = read(tmp_path)
    assert list(zip(study.replicas["variant"], study.replicas["seed"], strict=True)) == [
        ("base", 0),
        ("base", 1),
        ("swr", 0),
        ("swr", 1),
    ]
    assert set(study.rows["replica"]) == {0, 1}


def test_how_each_population_stands(tmp_path):
    def of(variant, status, **more):
        return Population(members(variant, 1), {ACCURACY: values(1, 1)}, status, **more)

    failed = of("d", "failed", error="OutOfMemoryError: no more")
    stopped = of("b", "running"), of("c", "interrupted")
    make_study(tmp_path, of("a", None), *stopped, failed, of("e", "running"), of("f", "finished"), of("g", "finished"))
    (tmp_path / "populations" / "006" / "run.json").write_text("{")
    with lock.hold(tmp_path / "populations" / "004"):
        study = read(tmp_path)
    assert study.replicas["status"].tolist() == [
        "waiting",
        "stopped",
        "stopped",
        "failed",
        "running",
        "finished",
        "unknown",
    ]
    assert set(study.rows["variant"]) == set("bcdefg")
    told = "\n".join(study.notes)
    for number, words in enumerate(
        ["has not begun", "goes on when", "goes on when", "no more", "in progress", "", "dam"]
    ):
        assert words in told
        assert (f"populations/{number:03d}" in told) == bool(words)


def test_the_diverged_are_named(tmp_path):
    gone = np.array([[1.0, 2.0], [3.0, np.nan]])
    make_study(
        tmp_path,
        Population(members("a", 1), {ACCURACY: gone[:, :1]}),
        Population(members("b", 2), {ACCURACY: gone}, frozen={1: 1_234}),
    )
    study = read(tmp_path)
    np.testing.assert_array_equal(study.replicas["diverged_after"], [np.nan, np.nan, 1_234])
    (note,) = study.notes
    assert note.startswith("b, seed 1 diverged: it was not finite after 1,234 updates")
    np.testing.assert_array_equal(matrix(study, ACCURACY)[:, 1:], gone)


@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_a_part_that_is_damaged_is_named_and_the_others_are_kept(tmp_path, harm):
    given = values(10, 3)
    swr = Population(members("swr", 2), {ACCURACY: values(10, 2)})
    make_study(tmp_path, Population(members("base", 3), {ACCURACY: given}), swr, part_rows=12)  # three parts, two parts
    part = tmp_path / "populations" / "000" / "metrics" / "part-000001.parquet"
    if harm == "missing":
        part.unlink()
    else:
        content = bytearray(part.read_bytes())
        content[len(content) // 3] ^= 0xFF
        part.write_bytes(content)
    study = read(tmp_path)
    (note,) = study.notes
    assert str(part) in note or ("populations/000" in note and "lacks part 1" in note)
    assert note.endswith("It is left out.")
    mine = study.of(ACCURACY).query("variant == 'base'")
    np.testing.assert_array_equal(mine["value"], given.ravel()[[*range(12), *range(24, 30)]])
    assert (study.rows["variant"] == "swr").sum() == 20


def test_variants_of_one_name_are_told_apart_by_their_workdirs(tmp_path):
    for name, rate in (("one", 0.1), ("two", 0.01)):
        everyone = members("base", 2, {RATE: rate}) + members(f"only in {name}", 1)
        make_study(tmp_path / name, Population(everyone, {LOSS: values(2, 3)}))
    study = read([tmp_path / "one", tmp_path / "two"])
    assert study.variants == ["base (one)", "only in one", "base (two)", "only in two"]
    assert study.methods == ["base (one)", "only in one", "base (two)", "only in two"]
    assert study.replicas["replica"].tolist() == list(range(6))
    assert read([tmp_path / "one", tmp_path / "two" / ".." / "one"]).variants == ["base", "only in one"]


def test_workdirs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    folders = [make_run(tmp_path / name / "run", Population(members("base", 1), {LOSS: [[1.0]]})) for name in "ab"]
    assert read(folders).variants == [f"base ({folder})" for folder in folders]


def test_more_seeds_of_the_same_settings_are_one_variant(tmp_path):
    given = {
        name: make_run(tmp_path / name, Population(members("base", seeds, {RATE: 0.1}), {LOSS: values(2, len(seeds))}))
        for name, seeds in {"first": [0, 1, 2], "more": [3, 4], "again": [0, 1, 2]}.items()
    }
    study = read([given["first"], given["more"]])
    assert study.variants == ["base"]
    assert study.replicas["seed"].tolist() == [0, 1, 2, 3, 4]
    assert read([given["first"], given["again"]]).variants == ["base (first)", "base (again)"]
    with open(given["more"] / "config.gin", "a") as file:
        file.write("run.max_tasks = 5\n")
    assert read([given["first"], given["more"]]).variants == ["base (first)", "base (more)"]


def test_nothing_that_a_config_says_is_executed(tmp_path):
    folders = [example(tmp_path / name, seeds=1, tasks=2) for name in "ab"]
    for config in tmp_path.glob("*/populations/*/config.gin"):
        config.write_text("import this_must_not_be_imported\nrun.seeds = [\n")
    assert len(read(folders).replicas) == 8


def test_what_is_neither_a_run_nor_a_study_is_refused(tmp_path):
    with pytest.raises(UserError, match="nothing to read"):
        read([])
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(UserError, match="neither a run nor a study"):
            read(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "study.json is damaged"),
        ("[]", "study.json is damaged"),
        ('{"format": "lopbench study", "layout": 2, "populations": []}', "has layout 2; this version of lop"),
        ('{"format": "lopbench study", "layout": 1, "populations": [{"folder": "a"}]}', "study.json is damaged"),
    ],
)
def test_a_ledger_that_can_not_be_read_is_refused(tmp_path, text, message):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_results_of_another_study_are_left_out(tmp_path):
    make_study(tmp_path, Population(members("base", 2), {LOSS: values(2, 2)}))
    make_run(tmp_path / "populations" / "000", Population(members("base", 3), {LOSS: values(2, 3)}))
    study = read(tmp_path)
    assert "holds more replicas than" in study.notes[0]
    assert (len(study.rows), len(study.replicas), study.tags()) == (0, 2, [])


def test_a_study_that_has_not_begun_has_replicas_and_no_rows(tmp_path):
    study = read(make_study(tmp_path, Population(members("base", 2, {RATE: 0.1}), {}, None)))
    assert study.rows.empty
    assert list(study.rows.columns) == ["variant", "method", "seed", "replica", "step", "task", "tag", "value", RATE]
    assert study.replicas["status"].tolist() == ["waiting"] * 2
