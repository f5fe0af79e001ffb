"""The README says what is there: its example runs, its commands are understood, its tables leave nothing out.

All examples are taken from the README's own text: a block of code that follows a line with nothing but a file's
name is that file.
"""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from absl import flags
from absl.testing import flagsaver
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from launch import local, slurm, status
from lopbench import config, gin_names, main, registry
from lopbench.analysis.__main__ import main as answer
from lopbench.analysis.report import write_report
from lopbench.experiment import Setting, execute
from lopbench.registry import KINDS
from tests.analysis.made_up import example

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
BLOCKS: dict[str, list[str]] = {
    language: re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    for language in ("sh", "python")
}
FILES: dict[str, str] = dict(re.findall(r"^`([\w.]+)`:\n\n```\w*\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))


def commands(module: str) -> list[str]:
    """The commands that run a module."""
    lines = [line for block in BLOCKS["sh"] for line in block.splitlines()]
    return [line[line.index(module) :] for line in lines if f"python -m {module} " in f"{line} "]


COMMANDS = commands("lopbench.main")
LAUNCHED = [*commands("launch.local"), *commands("lopbench.launch.local"), *commands("lopbench.launch.slurm")]

#: the quickstart and two runs that write every other tag of the table, cut down to a second each
QUICKSTART = ["streams.SlowlyChangingRegression.period = 100", "run.seeds = 3"]
PLASTICITY = """
include 'permuted_mnist/swr.gin'
include 'tiny.gin'

run.max_steps = 40
run.window_steps = 10
run.source = @sources.Generated
sources.Generated.shape = (4, 4)
sources.Generated.train_size = 200
streams.PermutedInputs.steps_per_task = 20
architectures.MLP.width = 10
probe_size = 50
strategies.SelectiveWeightReinit.period = 7
run.metrics = [
    @metrics.DeadUnits, @metrics.DormantUnits, @metrics.InactiveUnits, @metrics.Ranks, @metrics.WeightMagnitude,
    @metrics.GradientMagnitude, @metrics.DistanceFromInitial, @metrics.Evaluation,
]
run.variants = {
    'swr': [],
    'redo': ['strategies/redo.gin', 'strategies.ReDo.period = 7', 'strategies.ReDo.threshold = 0.5'],
    'reset': ['strategies/reset.gin'],
    'tanh with norm': ['architectures.MLP.activation = "tanh"', 'architectures.MLP.layer_norm = "post"'],
}
"""


IMAGES = """
include 'incremental_photographs/vit.gin'

run.seeds = 1
run.max_tasks = 2
run.window_steps = 10
run.executor = 'eager'
run.variants = {'base': []}
run.strategies = [@strategies.RestoreBest]
run.source = @sources.Generated
run.keep_tasks = 1
sources.Generated.shape = (3, 8, 8)
sources.Generated.train_size = 200
sources.Generated.test_size = 30
streams.ClassIncremental:
    epochs_per_task = 1
    examples_per_class = 15
    validation_per_class = 5
architectures.VisionTransformer:
    width = 8
    heads = 2
    depth = 1
    mlp_width = 8
metrics.WeightMagnitude.statistics = ['mean', 'median', 'min']
metrics.InactiveUnits.probe_size = 20
metrics.Ranks.probe_size = 20
"""


def table(heading: str) -> list[list[str]]:
    """The cells of the table whose first column has this heading, row by row, without the heading."""
    found = re.search(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert found, f"the README has no table of {heading}s"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


@dataclass(frozen=True)
class Runs:
    """What was run: the folder of the README's files, the workdirs, and every tag that was written."""

    folder: Path
    quickstart: Path
    plasticity: Path
    images: Path

    def tags(self) -> set[str]:
        """The tags in the tables and in TensorBoard's files."""
        found: set[str] = set()
        for workdir in (self.quickstart, self.plasticity, self.images):
            found |= set(pd.read_parquet(workdir / "metrics")["tag"])
            for events in (workdir / "tensorboard").rglob("events.out.tfevents.*"):
                found |= set(EventAccumulator(str(events)).Reload().Tags()["scalars"])
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the files that the README tells to write; what they register is forgotten at the end."""
    folder = tmp_path_factory.mktemp("readme")
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    config.import_parts()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_parts", {kind: registry.parts(kind) for kind in KINDS})
        yield folder


@pytest.fixture
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """That folder is the working directory."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with flagsaver.flagsaver():
        yield


@pytest.fixture(scope="module")
def runs(folder: Path) -> Runs:
    """The small runs."""
    (folder / "plasticity_of_all.gin").write_text(PLASTICITY, encoding="utf-8")
    (folder / "images.gin").write_text(IMAGES, encoding="utf-8")
    done = Runs(folder, folder / "runs/quickstart", folder / "runs/plasticity", folder / "runs/images")
    for workdir, files, bindings in (
        (done.quickstart, ["quickstart.gin", "tiny.gin"], QUICKSTART),
        (done.plasticity, [str(folder / "plasticity_of_all.gin")], []),
        (done.images, [str(folder / "images.gin")], []),
    ):
        assert execute(config.read(files, bindings), Setting(str(workdir), device="cpu")) == 0
    return done


@pytest.fixture(scope="module")
def study(folder: Path) -> Path:
    """A study like that of the walkthrough, with numbers that are made up, and its report."""
    made = example(folder / "runs" / "reinit_factor", names=("sgd", "swr"))
    write_report([made])
    return made


def test_it_begins_with_the_two_commands() -> None:
    assert BLOCKS["sh"][:2] == [
        "pip install -e . && python -m launch.local --gin_file=quickstart.gin\n",
        "pip install -e '.[test]' && pytest\n",
    ]


def test_the_example_of_a_strategy_runs(folder: Path) -> None:
    (command,) = [line for line in COMMANDS if "my_clipping.gin" in line and "tiny.gin" in line]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-P", "-m", *shlex.split(command), "--device=cpu"]
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = pd.read_parquet(folder / "runs/check/metrics")
    assert set(rows["variant"]) == {"sgd", "clip 3", "clip 1.5"}
    clipped = rows[rows["tag"] == "strategy/clipped_weights"].groupby("variant", observed=True)["value"].sum()
    assert set(clipped.index) == {"clip 3", "clip 1.5"}
    assert clipped["clip 1.5"] > clipped["clip 3"]
    assert len(FILES["my_clipping.py"].splitlines()) < 35


def test_the_example_of_pandas_runs(runs: Runs, there: None, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = (block for block in BLOCKS["python"] if "import pandas" in block)
    assert sum(map(bool, code.splitlines())) == 3
    exec(code, {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["variant", "sgd", "continual_backprop", "l2_init", "shrink_and_perturb", "swr"]
    assert [line.split()[0] for line in printed[2:]] == ["0", "1"]  # a row for each task


def test_the_example_of_the_answers_runs(study: Path, there: None, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = (block for block in BLOCKS["python"] if "lopbench.analysis" in block)
    exec(code, {})
    printed = capsys.readouterr().out
    assert "swr reinit_factor=0.01" in printed and "[4 rows" in printed and "[3 rows" in printed


@pytest.mark.parametrize("command", LAUNCHED)
def test_a_command_of_a_launcher_is_understood(command: str, there: None) -> None:
    _ = local, slurm  # whose flags these are
    assert len(flags.FLAGS(["a launcher", *shlex.split(command)[1:]])) == 1
    request = config.read(flags.FLAGS.gin_file, flags.FLAGS.gin_bindings, flags.FLAGS.gin_search_path)
    assert request.settings


def test_the_commands_that_look_at_a_study_run(study: Path, there: None, capsys: pytest.CaptureFixture[str]) -> None:
    """What it says of the walkthrough's study, and of another that it calls runs/study."""
    (looked,) = commands("lopbench.launch.status")
    answers = commands("lopbench.analysis")
    assert len(answers) == 2
    (study.parent / "study").symlink_to(study)
    assert status.main([looked.split()[0], *shlex.split(looked)[1:]]) == 0
    assert "2 populations, 24 replicas: 2 finished; 100%" in capsys.readouterr().out
    for command in answers:
        assert answer([command.split()[0], *shlex.split(command)[1:]]) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command: str, there: None) -> None:
    left = main.parse(["main.py", *shlex.split(command)[1:]])
    assert len(left) == 1
    if not flags.FLAGS.list:
        request = config.read(flags.FLAGS.gin_file, flags.FLAGS.gin_bindings, flags.FLAGS.gin_search_path)
        assert request.settings


def test_the_table_of_flags_is_complete() -> None:
    defined = flags.FLAGS.get_key_flags_for_module("lopbench.main")
    assert {quoted(row[0])[0] for row in table("flag")} == {f"--{flag.name}" for flag in defined}


def test_the_table_of_parts_is_complete() -> None:
    config.import_parts()
    registered = [(f"{kind}.{name}", part.__module__) for kind in KINDS for name, part in registry.parts(kind).items()]
    ours = [name for name, module in registered if module.startswith("lopbench.")]
    rows = table("part")
    assert [quoted(row[0])[0] for row in rows] == ours
    assert all(len(row) == 3 and row[1] for row in rows)


def patterns() -> dict[str, re.Pattern[str]]:
    """The tags in the table, each with what it matches."""
    found = {}
    for tag in (tag for row in table("tag") for tag in quoted(row[0])):
        text = re.escape(tag)
        for placeholder, matches in {
            "LAYER": r"[a-z]\w*(\.\w+)*",
            "NAME": r"[a-z]\w*(\.\w+)*",
            "SPLIT": "(train|test|validation|new_classes|old_classes|previous_test)",
            "CLASS": r"\d{3}",
            "GROUP": "[a-z]+",
            "TAG": ".+",
        }.items():
            text = text.replace(placeholder, matches)
        found[tag] = re.compile(text)
    return found


def test_the_table_of_tags_has_every_tag_that_is_written(runs: Runs) -> None:
    known = patterns().values()
    assert sorted(tag for tag in runs.tags() if not any(pattern.fullmatch(tag) for pattern in known)) == []


def test_every_tag_of_the_table_is_written(runs: Runs) -> None:
    written = runs.tags()
    assert [tag for tag, pattern in patterns().items() if not any(map(pattern.fullmatch, written))] == []


def test_every_file_that_is_named_exists(runs: Runs, study: Path) -> None:
    names = re.findall(r"(?<![\w/.:~-])[\w-]+(?:/[\w.-]+)*\.(?:gin|py|md|png|csv|json|parquet)\b", TEXT)
    names += [name for name in quoted(PROSE) if re.fullmatch(r"[\w/]+/", name)]
    places = [ROOT, ROOT / "gin_configs", runs.folder, runs.quickstart, runs.images, study, study / "report"]
    assert {"quickstart.gin", "lopbench/learner.py", "figures/plasticity.png", "gin_configs/"} <= set(names)
    names = [name.removeprefix("WORKDIR/") for name in names]
    missing = {name for name in names if not any((place / name).exists() for place in places)}
    groups = {f"{tag.partition('/')[0]}/" for tag in patterns()}  # of tags: no folders
    # besides: by a command of its own, while a run runs, and what a launcher writes
    others = {"NAME.gin", "remeasured/", "lock.json", "population.gin"}
    assert sorted(missing - groups - others) == []


def test_every_name_of_gin_exists(there: None) -> None:
    config.read(["my_clipping.gin"])  # registers the part of the example, too
    kinds = "|".join(KINDS)
    for component, parameter in re.findall(rf"\b((?:{kinds})\.[A-Z]\w*)(?:\.([a-z]\w*))?", TEXT):
        assert component in gin_names.components(), component
        assert not parameter or parameter in gin_names.parameters(component), f"{component}.{parameter}"
    for parameter in re.findall(r"\brun\.([a-z_]+)", TEXT):
        known = {*gin_names.parameters("run"), "variants", "parameter", "json"}
        assert parameter in known, f"run.{parameter}"


def test_published_numbers_have_their_source() -> None:
    for path in (ROOT / "third_party/published").glob("*.csv"):
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        assert rows and all(row["source"] for row in rows), path
        assert f"## published/{path.name}" in (ROOT / "third_party/README.md").read_text(encoding="utf-8")
