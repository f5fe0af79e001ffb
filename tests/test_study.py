"""Studies: what is planned, what an extension adds, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import gin
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lopbench import config, experiment, ledger, study
from lopbench.errors import UserError
from lopbench.experiment import build, imitation
from lopbench.ledger import Ledger
from lopbench.variants import Surroundings, split

CPU = torch.device("cpu")
BASE = """
run.stream = @streams.SlowlyChangingRegression
run.architecture = @architectures.MLP
run.optimizer = @optimizers.SGD
run.executor = 'eager'
run.max_tasks = 1
run.seeds = 2
run.variants = {'plain': [], 'l2': ['run.strategies = [@strategies.L2]']}
sweep.grid = {'strategies.L2.l2_weight': [0.1, 0.2]}
"""


#: a ledger with values that are right, and ones that are not
WRONG = (
    '{"format": "lopbench study", "layout": 1, "name": "a", "files": [], "bindings": [], "threads": 1, "populations": '
    '[{"folder": "populations/000", "steps": 1, "replicas": '
    '[{"variant": "v", "method": "m", "seed": 0, "point": "p", "values": {"k": 1}}]}]}'
)
WRONGS = {
    "populations/000": "../elsewhere",
    '"steps": 1': '"steps": "x"',
    '"seed": 0': '"seed": "q"',
    '"variant": "v"': '"variant": 3',
    '{"k": 1}': '{"k": [1]}',
    '"replicas": [': '"replicas": [{"variant": "v"}, ',
}


@pytest.fixture(autouse=True)
def no_bindings() -> Iterator[None]:
    gin.clear_config()
    yield
    gin.clear_config()


def plan(folder: Path, *bindings: str, room: float | None = None) -> Ledger:
    """The study of `BASE` with further lines, in `folder`/study, planned, or planned anew."""
    folder.mkdir(exist_ok=True)
    (folder / "mine.gin").write_text("\n".join([BASE, *bindings]))
    request = config.read([str(folder / "mine.gin")])
    variants, _ = build(request, Surroundings(CPU, imitation(CPU)))
    return study.plan(study.Points(request, variants), folder / "study", "mine", threads=1, room=room)


def packed(planned: Ledger) -> list[list[tuple[str, int]]]:
    """Variant and seed of each replica of each population."""
    return [[(member.variant, member.seed) for member in one.replicas] for one in planned.populations]


PACKED = [
    [("plain", 0), ("plain", 1)],
    [("l2 l2_weight=0.1", 0), ("l2 l2_weight=0.1", 1), ("l2 l2_weight=0.2", 0), ("l2 l2_weight=0.2", 1)],
]


def test_points_that_differ_in_numbers_share_a_population(tmp_path: Path) -> None:
    planned = plan(tmp_path)
    assert packed(planned) == PACKED
    assert [one.folder for one in planned.populations] == ["populations/000", "populations/001"]
    first, second = (one.replicas[0] for one in planned.populations)
    assert (first.method, first.values, first.point) == ("plain", {}, first.point)
    assert (second.method, second.values) == ("l2", {"strategies.L2.l2_weight": 0.1})
    assert len(planned.points) == 6


def test_the_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    planned = plan(tmp_path)
    assert ledger.read(tmp_path / "study") == planned == plan(tmp_path)


def test_populations_hold_at_most_so_many_replicas(tmp_path: Path) -> None:
    assert list(map(len, packed(plan(tmp_path, "sweep.most_replicas = 3")))) == [2, 2, 2]


def test_populations_fit_into_the_room_there_is(tmp_path: Path) -> None:
    wide = ("architectures.MLP.depth = 1", "architectures.MLP.width = 20_000")  # a replica takes some 10 MiB
    sizes = list(map(len, packed(plan(tmp_path, *wide, room=2**25))))
    assert len(sizes) > 2 and sum(sizes) == 6


@given(
    counts=st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 9), min_size=1, max_size=4),
    parts=st.integers(1, 9),
)
def test_a_split_keeps_every_replica_once_and_in_order(counts: Mapping[str, int], parts: int) -> None:
    total = sum(counts.values())
    pieces = split(counts, min(parts, total))
    everyone = [(name, place) for name, count in counts.items() for place in range(count)]
    found = [[(name, place) for name, first, last in part for place in range(first, last)] for part in pieces]
    assert [replica for part in found for replica in part] == everyone
    sizes = list(map(len, found))
    assert max(sizes) - min(sizes) <= 1


def test_more_seeds_and_values_add_what_is_new(tmp_path: Path) -> None:
    before = plan(tmp_path)
    grown = plan(tmp_path, "run.seeds = 3", "sweep.grid = {'strategies.L2.l2_weight': [0.1, 0.15, 0.2]}")
    assert grown.populations[:2] == before.populations
    l2 = "l2 l2_weight="
    added = [(f"{l2}0.1", 2), (f"{l2}0.15", 0), (f"{l2}0.15", 1), (f"{l2}0.15", 2), (f"{l2}0.2", 2)]
    assert packed(grown)[2:] == [[("plain", 2)], added]
    assert len(grown.points) == 12


def test_another_method_is_an_extension(tmp_path: Path) -> None:
    plan(tmp_path)
    more = (
        "run.variants = {'plain': [], 'l2': ['run.strategies = [@strategies.L2]'], 'fast': ['SGD.learning_rate = 1.0']}"
    )
    assert packed(plan(tmp_path, more))[2:] == [[("fast", 0), ("fast", 1)]]


def test_a_new_axis_gives_the_points_that_are_there_its_names_and_values(tmp_path: Path) -> None:
    width = "architectures.MLP.width = 5"
    before = plan(tmp_path, width)
    more = "sweep.grid = {'strategies.L2.l2_weight': [0.1, 0.2], 'architectures.MLP.width': [5, 6]}"
    grown = plan(tmp_path, width, more, "run.seeds = 3")
    for then, now in zip(before.populations, grown.populations, strict=False):
        assert [member.point for member in then.replicas] == [member.point for member in now.replicas]
    at_once = plan(tmp_path / "other", width, more, "run.seeds = 3")
    everyone = [
        {repr(one) for population in whole.populations for one in population.replicas} for whole in (grown, at_once)
    ]
    assert everyone[0] == everyone[1]
    assert grown.populations[0].replicas[0].variant == "plain width=5"


def test_bindings_that_change_no_number_may_change(tmp_path: Path) -> None:
    before = plan(tmp_path)
    assert plan(tmp_path, "run.checkpoint_minutes = 1").populations == before.populations


def test_every_population_is_a_gin_file_with_the_columns_of_the_whole_study(tmp_path: Path) -> None:
    plan(tmp_path)
    text = (tmp_path / "study" / "populations" / "000" / "population.gin").read_text()
    assert "'plain': {'method': 'plain', 'values': {'strategies.L2.l2_weight': None}}" in text
    again = config.read([str(tmp_path / "study" / "populations" / "001" / "population.gin")])
    assert list(again.variants) == ["l2 l2_weight=0.1", "l2 l2_weight=0.2"]
    assert all(found["run.seeds"].value == [0, 1] for found in again.settings.values())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run.seeds = 1", "holds the point 'plain', seed 1, which is not asked for. A study may grow, but not change"),
        ("sweep.grid = {'strategies.L2.l2_weight': [0.1]}", "holds the point 'l2 l2_weight=0.2', seed 0, which is not"),
        ("SGD.learning_rate = 0.5", r"holds another study. The first difference:"),
    ],
)
def test_a_study_that_asks_for_less_or_else_is_refused(tmp_path: Path, line: str, message: str) -> None:
    plan(tmp_path)
    before = (tmp_path / "study" / "study.json").read_bytes()
    with pytest.raises(UserError) as refusal:
        plan(tmp_path, line)
    assert message in str(refusal.value)
    assert (tmp_path / "study" / "study.json").read_bytes() == before


def test_the_first_difference_is_shown(tmp_path: Path) -> None:
    plan(tmp_path)
    with pytest.raises(UserError, match=r"there:  \(nothing\)\n    asked:  optimizers\.SGD\.learning_rate = 0\.5"):
        plan(tmp_path, "SGD.learning_rate = 0.5", "run.seeds = 3")  # more seeds are no difference


def test_a_value_of_the_wrong_type_is_named_with_its_variant(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refusal:
        plan(tmp_path, "sweep.grid = {'strategies.L2.l2_weight': [0.1, 'much']}")
    assert str(refusal.value).startswith("strategies.L2.l2_weight is 'much': it must be a number at least 0")
    assert "run.variants['l2 l2_weight=much']" in str(refusal.value)
    assert not (tmp_path / "study").exists()


def test_seeds_are_no_axis_of_a_study(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a study can't sweep run\.seeds"):
        plan(tmp_path, "sweep.grid = {'run.seeds': [1, 2]}")


def test_a_folder_of_a_single_run_is_no_place_for_a_study(tmp_path: Path) -> None:
    metrics = tmp_path / "study" / "metrics"
    metrics.mkdir(parents=True)
    (metrics / "part-000000.parquet").write_bytes(b"")
    with pytest.raises(UserError, match=r"study holds a single run, and no study\. Choose another --workdir"):
        plan(tmp_path)


def test_a_folder_of_a_study_is_no_place_for_a_single_run(tmp_path: Path) -> None:
    plan(tmp_path)
    request = config.read([str(tmp_path / "mine.gin")])
    with pytest.raises(UserError, match="holds a study, whose populations are runs"):
        experiment.execute(request, experiment.Setting(str(tmp_path / "study"), device="cpu"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("{", "study.json is damaged"),
        ("[]", "study.json is damaged"),
        ('{"format": "other"}', "study.json is not a study of lopbench"),
        ('{"format": "lopbench study", "layout": 9}', "study.json has layout 9; this version of lopbench reads 1"),
        ('{"format": "lopbench study", "layout": 1, "populations": [{}]}', "study.json is damaged"),
        *((WRONG.replace(right, wrong), "study.json is damaged") for right, wrong in WRONGS.items()),
    ],
)
def test_a_damaged_ledger_is_named(tmp_path: Path, damage: str, message: str) -> None:
    plan(tmp_path)
    (tmp_path / "study" / "study.json").write_text(damage)
    for use in (lambda: plan(tmp_path), lambda: ledger.read(tmp_path / "study")):
        with pytest.raises(UserError, match=message):
            use()


def test_the_ledger_is_plain_json(tmp_path: Path) -> None:
    plan(tmp_path)
    told = json.loads((tmp_path / "study" / "study.json").read_text())
    assert (told["format"], told["layout"], told["name"], told["threads"]) == ("lopbench study", 1, "mine", 1)
    assert told["populations"][1]["replicas"][2]["variant"] == "l2 l2_weight=0.2"
