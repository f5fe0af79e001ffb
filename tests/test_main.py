"""main.py: the flags, the exit status and the text on the terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gin
import pytest
from absl import flags
from absl.testing import flagsaver

from lopbench import lookup, main

ROOT = Path(main.__file__).parent.parent
USAGE = "python -m lopbench.main --gin_file=quickstart.gin"

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Call]:
    """Call main in this process, in an empty working directory, with these flags: exit status, stdout, stderr."""
    gin.clear_config()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*arguments: str) -> tuple[int, str, str]:
        try:
            status = main.main(main.parse(["main.py", *arguments]))
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        return status, out, err

    with flagsaver.flagsaver():
        yield call
    gin.clear_config()


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder where lopbench is importable, as if it were installed."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


def test_the_flags_are_these() -> None:
    defined = flags.FLAGS.get_key_flags_for_module("lopbench.main")
    assert {flag.name: flag.default for flag in defined} == {
        "gin_file": [],
        "gin_bindings": [],
        "gin_search_path": [],
        "workdir": None,
        "data_dir": None,
        "device": "auto",
        "overwrite": False,
        "list": False,
        "dry_run": False,
    }


def test_main_defines_flags_and_nothing_else() -> None:
    assert len(Path(main.__file__).read_text().splitlines()) < 80


def test_a_flags_value_may_hold_commas_and_be_repeated(call: Call) -> None:
    main.parse(["main.py", "--gin_bindings=Net.hidden = (1, 2)", "--gin_bindings=run.seeds = [3, 4]"])
    assert flags.FLAGS.gin_bindings == ["Net.hidden = (1, 2)", "run.seeds = [3, 4]"]


def test_help_begins_with_two_examples_and_needs_no_torch(tmp_path: Path) -> None:
    done = python(tmp_path, "-m", "lopbench.main", "--help")
    lines = done.stdout.splitlines()
    assert [line.strip() for line in lines[2:4]] == [
        USAGE,
        f"{USAGE} --gin_bindings='run.seeds = 5' --workdir=runs/five",
    ]
    assert "--gin_file: A gin file" in done.stdout and "--pdb" not in done.stdout
    assert done.stderr == ""
    done = python(tmp_path, "-c", "import lopbench.main, sys; print('torch' in sys.modules)")
    assert done.stdout == "False\n"


def test_from_any_directory_a_mistake_is_a_message_and_status_1(tmp_path: Path) -> None:
    done = python(tmp_path, "-m", "lopbench.main", "--gin_file=no_such_run")
    assert done.returncode == 1
    assert done.stderr == (
        "There is no gin file 'no_such_run'.\n"
        f"  looked for: {tmp_path}/no_such_run\n"
        f"              {lookup.shipped()}/no_such_run\n"
    )
    assert done.stdout == ""


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--gin_fiel=a"], "Unknown command line flag 'gin_fiel'. Did you mean: gin_file ? --help shows the flags.\n"),
        (["--workdir"], "Missing value for flag --workdir --help shows the flags.\n"),
        (["a.gin"], "a.gin: not a flag. A gin file is given as --gin_file=NAME.gin.\n"),
    ],
)
def test_a_mistake_in_the_flags_is_one_line(call: Call, arguments: list[str], message: str) -> None:
    assert call(*arguments) == (1, "", message)


def test_without_a_gin_file_it_says_what_there_is_in_few_lines(call: Call) -> None:
    status, out, err = call()
    assert (status, out) == (1, "")
    first, files, *folders = err.splitlines()
    assert first == f"Which --gin_file? There are, in {lookup.shipped()}:"
    assert files.strip().split(", ") == sorted(path.name for path in lookup.shipped().glob("*.gin"))
    assert len(folders) < 20
    counted = {line.strip().partition("/ (")[0]: int(line.partition("(")[2].strip(")")) for line in folders}
    assert counted["permuted_mnist"] == len(list((lookup.shipped() / "permuted_mnist").rglob("*.gin")))
    assert not counted.keys() & {"strategies", "streams", "architectures"}  # fragments, that can't run alone


@pytest.mark.parametrize(
    "file, name",
    [
        (lookup.shipped() / "quickstart.gin", "quickstart"),
        (lookup.shipped() / "permuted_mnist/swr.gin", "permuted_mnist/swr"),
        (lookup.shipped() / "permuted_mnist/large/base.gin", "permuted_mnist/large/base"),
        (lookup.shipped() / "permuted_mnist/../permuted_mnist/swr.gin", "permuted_mnist/swr"),
        (Path("studies/mine.gin"), "mine"),
    ],
)
def test_a_shipped_file_s_run_is_named_after_its_path_and_another_s_after_its_stem(file: Path, name: str) -> None:
    assert lookup.run_name(file) == name


def test_without_a_workdir_results_go_to_the_run_s_name(call: Call, tmp_path: Path) -> None:
    run = ["seeds = 1", "max_steps = 2", "executor = 'eager'", "metrics = []", "source = @sources.Generated"]
    data = ["shape = (28, 28)", "classes = 10", "train_size = 90", "test_size = 9"]
    lines = [*(f"run.{line}" for line in run), *(f"sources.Generated.{line}" for line in data)]
    bindings = [f"--gin_bindings={line}" for line in lines]
    status, _, err = call("--gin_file=permuted_mnist/swr.gin", "--device=cpu", *bindings)
    assert status == 0, err
    assert (tmp_path / "runs" / "permuted_mnist" / "swr" / "run.json").exists()


def test_a_mistake_in_gin_is_one_block(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.gin").write_text("run.seed = 1\n")
    status, out, err = call("--gin_file=mine.gin")
    assert (status, out) == (1, "")
    assert err.startswith("run has no parameter seed. Did you mean seeds")
    assert err.endswith(f"\n  in {tmp_path}/mine.gin, line 1: run.seed = 1\n")


def test_ctrl_c_is_one_line(call: Call, tmp_path: Path) -> None:
    (tmp_path / "interrupted_part.py").write_text("raise KeyboardInterrupt\n")
    (tmp_path / "mine.gin").write_text("import interrupted_part\n")
    assert call("--gin_file=mine.gin") == (130, "", "Interrupted.\n")


def test_list_shows_every_part_with_its_parameters(call: Call) -> None:
    from lopbench.registry import KINDS, parts

    status, out, err = call("--list")
    assert (status, err) == (0, "")
    blocks = out.split("\n\n")
    assert [block.splitlines()[0] for block in blocks[1:]] == ["run", *KINDS]
    for kind in KINDS:
        for name in parts(kind):
            assert f"  {kind}.{name}: " in out
    assert "      stream  (must be given)\n" in blocks[1] and "      seeds = 1\n" in blocks[1]
    assert "      schedule = @schedules.Constant\n" in blocks[1]
    assert "      max_gradient_norm* = None\n" in blocks[1]  # may differ between replicas
    assert "surroundings" not in blocks[1]  # the run passes it itself
    optimizers = next(block for block in blocks if block.startswith("optimizers"))
    assert "\n      learning_rate* = " in optimizers
