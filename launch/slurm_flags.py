"""The flags of `launch.slurm`: what they say to `sbatch`, and the site file that has those of all your studies."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from lopbench.command_line import parse
from lopbench.errors import UserError, require

PARTITION = flags.DEFINE_string("partition", None, "The partition of the jobs; without it the cluster's default.")
ACCOUNT = flags.DEFINE_string("account", None, "The account that is charged.")
QOS = flags.DEFINE_string("qos", None, "The quality of service.")
TIME = flags.DEFINE_string("time", None, "Time limit of a job, as sbatch has it: minutes, H:M:S or D-H:M:S.")
MEM = flags.DEFINE_string(
    "mem", None, "Memory of a job, as sbatch has it: 16G. Without GPUs populations are packed to it."
)
CPUS = flags.DEFINE_integer("cpus", 1, "Processor cores of a job; without GPUs also a new study's threads.", 1)
GPUS = flags.DEFINE_integer("gpus", 0, "GPUs of a job: 0 or 1, since a population trains on one.", 0, 1)
CONSTRAINT = flags.DEFINE_string("constraint", None, "Features that a node must have.")
MAX_PARALLEL = flags.DEFINE_integer("max_parallel", 256, "How many jobs run at the same time, at most.", 1)
SETUP = flags.DEFINE_multi_string("setup", [], "A line of bash before the run, such as 'module load cuda'.")
EXTRA = flags.DEFINE_multi_string("extra", [], "Anything else that sbatch takes: NAME=VALUE, or NAME alone.")
SIGNAL_SECONDS = flags.DEFINE_integer(
    "signal_seconds", 120, "Seconds before the end of its time at which a job stops with a checkpoint.", 1
)
WATCH = flags.DEFINE_boolean("watch", True, "Stay, show how far it is, and submit lost jobs again.")
POLL_SECONDS = flags.DEFINE_float("poll_seconds", 10.0, "Seconds from one look at the queue to the next.", 0.1)
SITE = flags.DEFINE_string("site", None, "A file with flags, one a line, that your studies share.")

#: how many seconds earlier than asked for SLURM may send a signal (sbatch(1), --signal)
SIGNAL_EARLY = 60


def sbatch_parameters() -> dict[str, Any]:
    """What the flags say of a job, as `submitit.SlurmExecutor` takes it. Raises `UserError` at the first mistake."""
    if TIME.value is not None:
        least = SIGNAL_SECONDS.value + SIGNAL_EARLY
        require(
            seconds(TIME.value) > least,
            f"--time={TIME.value} is too short: a job is told to stop --signal_seconds={SIGNAL_SECONDS.value} before "
            f"its end, or up to {SIGNAL_EARLY} earlier. More than {least} seconds are needed.",
        )
    others: dict[str, Any] = {"requeue": True}
    if MEM.value is not None:
        memory_bytes(MEM.value)
        others["mem"] = MEM.value
    for entry in EXTRA.value:
        name, equals, value = entry.removeprefix("--").partition("=")
        require(bool(name), f"--extra={entry!r}: it must be NAME=VALUE, or NAME alone, as sbatch has them.")
        others[name] = value if equals else True
    return {
        "partition": PARTITION.value,
        "account": ACCOUNT.value,
        "qos": QOS.value,
        "time": TIME.value,
        "cpus_per_task": CPUS.value,
        "gpus_per_node": GPUS.value or None,
        "constraint": CONSTRAINT.value,
        "array_parallelism": MAX_PARALLEL.value,
        "setup": SETUP.value or None,
        "signal_delay_s": SIGNAL_SECONDS.value,
        "srun_args": [f"--cpus-per-task={CPUS.value}"],  # since SLURM 22.05 srun takes it from sbatch no longer
        "stderr_to_stdout": True,
        "wckey": None,
        "additional_parameters": others,
    }


def seconds(limit: str) -> int:
    """A time limit of sbatch: "90" (minutes), "90:00", "1:30:00", "1-6", "1-6:00" or "1-6:00:00"."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if found is None:
        raise UserError(f"--time={limit!r}: it must be minutes, H:M:S or D-H:M:S, as sbatch has it.")
    days, *parts = found.groups()
    numbers = [int(part) for part in parts if part is not None]
    first = 3600 if days is not None or len(numbers) == 3 else 60  # what the first of them counts
    return 86400 * int(days or 0) + sum(first * number // 60**place for place, number in enumerate(numbers))


def memory_bytes(amount: str) -> int:
    """An amount of memory of sbatch: "16G", "4000M", or "4000", which is in megabytes, too."""
    found = re.fullmatch(r"(\d+)([KMGT]?)B?", amount, re.IGNORECASE)
    if found is None:
        raise UserError(f"--mem={amount!r}: it must be a number with K, M, G or T, as sbatch has it, such as 16G.")
    return int(found[1]) * 1024 ** (" KMGT".index(found[2].upper() or "M"))


def parse_with_site(argv: Sequence[str]) -> list[str]:
    """Parse the flags of the command and, before them, those of the site file; a mistake is told as by `parse`."""
    rest, path = parse(argv), site_file(SITE.value, os.environ)
    if path is None:
        return rest
    flags.FLAGS.unparse_flags()
    return parse([argv[0], f"--flagfile={path}", *argv[1:]])


def site_file(named: str | None, environment: Mapping[str, str]) -> Path | None:
    """The site file: that which is named, else the environment's, else the user's own if it is there."""
    chosen = named or environment.get("LOPBENCH_SLURM_SITE")
    path = Path(chosen or "~/.config/lopbench/slurm.flags").expanduser()
    return path if chosen or path.is_file() else None
