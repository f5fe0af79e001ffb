"""What of `python -m launch.slurm` needs no cluster: its flags, and what they make. tests/slurm/ has the rest."""

import subprocess
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from launch import slurm, slurm_flags, slurm_queue
from lopbench.errors import UserError

GIN = ("--gin_file=quickstart.gin", "--gin_bindings=run.executor = 'eager'")


@pytest.fixture(autouse=True)
def no_site_file(monkeypatch, tmp_path):
    """Neither this machine's user's nor its environment's; and every flag as it was."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LOPBENCH_SLURM_SITE", raising=False)
    with flagsaver.flagsaver():
        yield
    flags.FLAGS.mark_as_parsed()


def parameters(*words: str) -> dict:
    flags.FLAGS.unparse_flags()
    slurm_flags.parse_with_site(["slurm", *words])
    return slurm_flags.sbatch_parameters()


def test_flags_become_what_sbatch_is_told():
    found = parameters(
        *("--partition=gpu", "--account=lab", "--qos=long", "--time=1-2:00:00", "--mem=16G", "--cpus=4", "--gpus=1"),
        *("--constraint=a100", "--max_parallel=8", "--setup=module load cuda", "--setup=ulimit -n 4096"),
        *("--extra=nice=100", "--extra=--exclusive", "--signal_seconds=300"),
    )
    assert found["additional_parameters"] == {"requeue": True, "mem": "16G", "nice": "100", "exclusive": True}
    assert found["setup"] == ["module load cuda", "ulimit -n 4096"]
    told = {name: found[name] for name in ("partition", "account", "qos", "time", "constraint")}
    assert told == {"partition": "gpu", "account": "lab", "qos": "long", "time": "1-2:00:00", "constraint": "a100"}
    counts = ("cpus_per_task", "gpus_per_node", "array_parallelism", "signal_delay_s")
    assert [found[name] for name in counts] == [4, 1, 8, 300]


def test_submitit_takes_them_and_leaves_out_what_was_not_said(tmp_path):
    slurm_script = pytest.importorskip("submitit.slurm.slurm")._make_sbatch_string
    script = slurm_script(command="run", folder=tmp_path, **parameters("--mem=4G", "--extra=exclusive"))
    asked = {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}
    assert {"requeue", "exclusive", "mem=4G", "cpus-per-task=1", "signal=USR2@120"} <= asked
    assert not any(entry.startswith(("time", "partition", "gpus", "wckey", "account")) for entry in asked)
    assert "--cpus-per-task=1 run" in script


@pytest.mark.parametrize("by", ["flag", "environment", "home"])
def test_a_site_file_has_the_defaults_and_the_command_wins(tmp_path, monkeypatch, by):
    path = tmp_path / ("home/.config/lopbench/slurm.flags" if by == "home" else "site.flags")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("# our cluster\n--partition=cpu\n--time=60\n--setup=module load python\n")
    if by == "environment":
        monkeypatch.setenv("LOPBENCH_SLURM_SITE", str(path))
    found = parameters("--time=90", "--setup=hostname", *([f"--site={path}"] if by == "flag" else []))
    assert (found["partition"], found["time"]) == ("cpu", "90")
    assert found["setup"] == ["module load python", "hostname"]


def test_the_site_file_that_is_named_hides_the_environments(tmp_path, monkeypatch):
    for name in ("named", "environments"):
        (tmp_path / name).write_text(f"--partition={name}\n")
    monkeypatch.setenv("LOPBENCH_SLURM_SITE", str(tmp_path / "environments"))
    assert parameters()["partition"] == "environments"
    assert parameters(f"--site={tmp_path / 'named'}")["partition"] == "named"


@pytest.mark.parametrize("by", ["flag", "environment"])
def test_a_site_file_that_is_named_must_be_there(tmp_path, monkeypatch, capsys, by):
    if by == "environment":
        monkeypatch.setenv("LOPBENCH_SLURM_SITE", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit):
        parameters(*([f"--site={tmp_path / 'nowhere'}"] if by == "flag" else []))
    assert str(tmp_path / "nowhere") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("90", 90 * 60),
        ("90:30", 90 * 60 + 30),
        ("2:00:05", 7205),
        ("1-6", 30 * 3600),
        ("1-6:30", 30.5 * 3600),
        ("1-0:00:01", 86401),
    ],
)
def test_time_limits_are_read_as_sbatch_reads_them(limit, seconds):
    assert slurm_flags.seconds(limit) == seconds


@pytest.mark.parametrize(("amount", "size"), [("4000", 4000 * 2**20), ("16G", 2**34), ("1t", 2**40), ("512MB", 2**29)])
def test_memory_is_read_as_sbatch_reads_it(amount, size):
    assert slurm_flags.memory_bytes(amount) == size


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--time=soon"], "--time='soon'"),
        (["--time=3"], "More than 180 seconds"),
        (["--time=30", "--signal_seconds=1800"], "--signal_seconds=1800"),
        (["--mem=much"], "--mem='much'"),
        (["--extra==4"], "--extra='=4'"),
    ],
)
def test_a_mistake_in_a_flag_is_one_message_that_names_it(words, said):
    with pytest.raises(UserError) as error:
        parameters(*words)
    assert said in error.value.message


def test_without_submitit_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.chdir(tmp_path)
    flags.FLAGS.unparse_flags()
    slurm_flags.parse_with_site(["slurm", *GIN])
    assert slurm.main(["slurm"]) == 1
    assert "pip install 'lopbench[slurm]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_sbatch_it_says_where_to_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    flags.FLAGS.unparse_flags()
    slurm_flags.parse_with_site(["slurm", *GIN])
    assert slurm.main(["slurm"]) == 1
    assert "sbatch" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_jobs_that_were_noted_down_are_remembered_and_a_damaged_note_is_named(tmp_path):
    assert slurm_queue.Jobs(tmp_path).latest("populations/000") is None
    path = tmp_path / "slurm" / "jobs.json"
    path.write_text('{"populations/000": ["4_0", "5_1"]}')
    assert slurm_queue.Jobs(tmp_path).latest("populations/000") == "5_1"
    path.write_text("{")
    with pytest.raises(UserError, match=r"jobs\.json"):
        slurm_queue.Jobs(tmp_path)


def test_help_is_quick_and_needs_neither_torch_nor_submitit():
    program = "import sys, launch.slurm; sys.exit(bool({'torch', 'submitit', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
