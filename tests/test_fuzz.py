"""Fuzzing: whatever is bound and whatever the flags are, the answer is a result or one message, soon, and no harm.

Examples are drawn as gin_strategies.py says; they are the same in each run of the tests, and run in this process.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import gin
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lopbench import config
from lopbench.errors import UserError
from lopbench.loggers import manifest
from tests.end_to_end.test_runs import BASE, Done, lopbench_main, table
from tests.gin_strategies import COMPONENTS, FILES, KEYS, bindings, flags, run_with, texts

#: seconds within which there must be an answer, on a busy machine too
PATIENCE = 20

FUZZ = settings(
    derandomize=True,
    database=None,
    deadline=None,  # `patience` is one that also ends what hangs
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Fail if what is within takes too long."""

    def stop(number: int, frame: FrameType | None) -> None:
        pytest.fail(f"no answer in {PATIENCE} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def answer(folder: Path, *arguments: str) -> Done:
    """Call main, in `folder`: it ends soon, with status 0, or with status 1 and a message; no exception leaves it."""
    with patience():
        done = lopbench_main(folder, *arguments)
    assert done.status in (0, 1), done
    assert done.status == 0 or (done.err.strip() and "Traceback" not in done.err), done
    done.out.encode()  # a terminal takes it
    return done


def read(folder: Path, text: str) -> config.Request | None:
    """What a text asks for, as mine.gin of `folder`; None if it is refused. No other exception leaves config.py."""
    (folder / "mine.gin").write_text(text, encoding="utf-8", errors="replace", newline="")
    path = list(sys.path)
    with patience(), contextlib.chdir(folder):
        try:
            return config.read(["mine.gin"])
        except UserError as error:
            assert error.message.strip() and "object at 0x" not in error.message
            return None
        finally:
            sys.path[:] = path


def bound(request: config.Request) -> dict[str, dict[str, str]]:
    """What each variant binds."""
    return {
        name: {key: repr(binding.value) for key, binding in found.items()} for name, found in request.settings.items()
    }


def contents(folder: Path) -> dict[str, str]:
    """All that is in a folder, by its name: of files a digest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(autouse=True)
def nothing_bound() -> Iterator[None]:
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture(scope="module")
def included(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what drawn texts include."""
    folder = tmp_path_factory.mktemp("included")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()
    return folder


# Bindings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_runs_that_are_drawn_are_right_before_anything_is_bound(tmp_path: Path, component: str) -> None:
    """Otherwise any binding would be refused for a reason that is not its own."""
    (tmp_path / "mine.gin").write_text(run_with(component))
    done = answer(tmp_path, "--gin_file=mine.gin", "--dry_run", "--device=cpu")
    assert done.status == 0, done.err


@settings(FUZZ, max_examples=150)
@given(bindings(), st.booleans())
@example(("run", ["run.max_gradient_norm = " + "9" * 400]), False)
@example(("schedules.OneCycle", [f"schedules.OneCycle.total_steps = {2**63}"]), False)
@example(("streams.Stationary", [f"streams.Stationary.tasks = {2**62}"]), True)
def test_any_value_of_any_parameter_is_taken_or_refused(
    tmp_path: Path, bound: tuple[str, list[str]], on_the_command_line: bool
) -> None:
    """Bound in the file or on the command line, values make a plan, or a message; nothing is written."""
    component, lines = bound
    (tmp_path / "mine.gin").write_text(run_with(component) + ("" if on_the_command_line else "\n".join([*lines, ""])))
    flags = [f"--gin_bindings={line}" for line in lines] if on_the_command_line else []
    before = contents(tmp_path)
    answer(tmp_path, "--gin_file=mine.gin", "--dry_run", "--device=cpu", *flags)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("architectures.ConvNet.channels", [2**62]),
        ("architectures.ConvNet.hidden", [5, 2**62]),
        ("architectures.MLP.depth", 2**62),
        ("architectures.MLP.width", 2**62),
        ("architectures.ResNet18.width", 2**62),
        ("architectures.VisionTransformer.depth", 2**62),
        ("architectures.VisionTransformer.mlp_width", 2**62),
        ("architectures.VisionTransformer.width", 2**62),
        ("streams.SlowlyChangingRegression.batch_size", 2**62),
        ("streams.SlowlyChangingRegression.inputs", 2**62),
        ("streams.SlowlyChangingRegression.target_units", 2**62),
    ],
)
def test_a_size_that_no_machine_has_is_refused_at_once(tmp_path: Path, key: str, value: object) -> None:
    """Before anything so large is made, which would take all memory, or for ever."""
    (tmp_path / "mine.gin").write_text(f"{run_with(key.rpartition('.')[0])}{key} = {value}\n")
    done = answer(tmp_path, "--gin_file=mine.gin", "--dry_run", "--device=cpu")
    assert done.status == 1
    assert re.match(rf"{re.escape(f'{key} is {value}:')} (it|each) must be at most ", done.err), done.err


def test_tasks_of_different_lengths_are_counted_before_they_are_listed(tmp_path: Path) -> None:
    """Their lengths are a list, which must not fill the memory."""
    lines = f"ClassSequence.classes_per_task = (1, 2)\nClassSequence.tasks = {2**62}\n"
    (tmp_path / "mine.gin").write_text(run_with("streams.ClassSequence") + lines)
    done = answer(tmp_path, "--gin_file=mine.gin", "--dry_run", "--device=cpu")
    assert done.status == 1
    assert done.err.startswith(f"streams.ClassSequence.tasks is {2**62}, but its tasks differ in length: ")


@settings(FUZZ, max_examples=20)
@given(bindings(wrong=False))
def test_a_run_with_odd_values_finishes_or_says_why_not(
    tmp_path_factory: pytest.TempPathFactory, bound: tuple[str, list[str]]
) -> None:
    """What begins is marked as finished, and has a table to read, or as failed; what is refused leaves nothing."""
    component, lines = bound
    folder = tmp_path_factory.mktemp("odd")
    short = ["run.max_steps = 12", "run.executor = 'eager'"]
    (folder / "mine.gin").write_text("\n".join([run_with(component), *lines, *short, ""]))
    done = answer(folder, "--gin_file=mine.gin", "--workdir=out", "--device=cpu", "--data_dir=.")
    status = manifest.read(folder / "out").get("status")
    if done.status == 0:
        assert status == "finished" and len(table(folder / "out")) > 0
    else:
        assert status == "failed" or not (folder / "out").exists()


# Texts --------------------------------------------------------------------------------------------------

LAUGHS = "\n".join(f"M{i} = [%M{i + 1}, %M{i + 1}]" for i in range(40))
CHAIN = "\n".join(f"M{i} = %M{i + 1}" for i in range(2000))
GRID = {key: [*range(1, 60)] for key in ("run.seeds", "run.max_steps", "run.max_tasks", "SGD.momentum")}


@settings(FUZZ, max_examples=300)
@given(texts())
@example(f"{BASE}{LAUGHS}\nM40 = 1\nrun.seeds = %M0\n")
@example(f"{BASE}{CHAIN}\nM2000 = 1\nrun.seeds = %M0\n")
@example(f"{BASE}run.seeds = {'[' * 500}{']' * 500}\n")
@example(f"{BASE}run.seeds = {'(' * 100_000}\n")
@example(f"{BASE}run.seeds = 0x{'f' * 5000}\n")
@example(f"{BASE}run.seeds = {{0x{'f' * 5000}: 1}}\n")
@example(f"{BASE}run.seeds = {{%M: 1}}\nM = [1]\n")
@example(f"{BASE}sweep.grid = {GRID}\n")
@example(f"{BASE}include {'x' * 5000!r}\n")
@example(f"{BASE}include '~nobody/x.gin'\n")
def test_any_text_is_refused_or_can_be_saved_and_read_again(included: Path, text: str) -> None:
    """What is taken asks for the same once more when what was asked for is saved, as a run does."""
    request = read(included, text)
    if request is not None:
        again = read(included, request.asked_text())
        assert again is not None and bound(again) == bound(request)


ODD_NAMES = ["a b", "a:b*?<>|", "a_b_____", "x" * 200, "漢" * 66, 'it\'s "q"', "s %s {0}", "a=1, b=[2]"]


def test_variants_with_odd_names_are_told_apart_wherever_they_are_shown(tmp_path: Path) -> None:
    """In the table, in TensorBoard's folders, and in the saved config, which asks for them again."""
    variants = {name: [] for name in ODD_NAMES}
    lines = f"run.variants = {variants}\nrun.max_steps = 2\nrun.metrics = []\n"
    (tmp_path / "mine.gin").write_text(BASE + lines, encoding="utf-8")
    done = answer(tmp_path, "--gin_file=mine.gin", "--workdir=out", "--device=cpu")
    assert done.status == 0, done.err
    assert list(dict.fromkeys(table(tmp_path / "out")["variant"])) == ODD_NAMES
    assert len(list((tmp_path / "out/tensorboard").iterdir())) == len(ODD_NAMES)
    again = read(tmp_path, (tmp_path / "out/config.gin").read_text(encoding="utf-8"))
    assert again is not None and list(again.variants) == ODD_NAMES


# Flags --------------------------------------------------------------------------------------------------


@settings(FUZZ, max_examples=150)
@given(st.lists(flags, max_size=4), st.booleans())
@example(["--gin_file=~nobody/x.gin"], False)
@example(["--gin_search_path=~nobody"], True)
@example([f"--gin_file={'x' * 5000}"], False)
@example(["--gin_bindings=# \udcff"], True)
def test_any_flags_have_an_answer(included: Path, arguments: list[str], with_a_file: bool) -> None:
    """Whatever they are, a dry run with them shows its plan or says what is wrong, and writes nothing."""
    (included / "mine.gin").write_text(BASE)
    before = contents(included)
    # --dry_run comes first: a flag that lacks its value would swallow it
    answer(included, "--dry_run", *(["--gin_file=mine.gin"] if with_a_file else []), *arguments)
    assert contents(included) == before


# Results ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds, in out/, the results of a run. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "mine.gin").write_text(BASE)
    done = answer(folder, "--gin_file=mine.gin", "--workdir=out", "--device=cpu")
    assert done.status == 0, done.err
    return folder


@settings(FUZZ, max_examples=60)
@given(st.sampled_from(KEYS))
def test_a_mistake_never_touches_another_run_s_results(finished: Path, key: str) -> None:
    """Not even with --overwrite. A dict of such a key is right for no parameter."""
    (finished / "theirs.gin").write_text(run_with(key.rpartition(".")[0]))
    before = contents(finished)
    mistake = f"--gin_bindings={key} = {{'': []}}"
    done = answer(finished, "--gin_file=theirs.gin", "--workdir=out", "--overwrite", "--device=cpu", mistake)
    assert done.status == 1 and done.err.startswith(f"{key} is {{'': []}}: it must be "), done.err
    assert contents(finished) == before
