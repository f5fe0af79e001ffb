"""A real SLURM of one node, for tests: munged, slurmctld and slurmd of this user, in a folder of their own.

    python -m tests.slurm.one_node FOLDER    starts it, tells how a shell finds it, and stops it on Ctrl-C

Needs the programs of Debian's packages slurm-wlm and munge, and neither systemd, nor control groups, nor anything in
/etc or /run. There is no accounting database, as on many clusters: `sacct` does not answer. Two jobs of one core run
at once, however many cores the machine has.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
#: seconds in which each of its programs starts, and ends
PATIENCE = 60.0

# A job that is queued again may begin once its credential has expired, which takes 120 seconds unless told otherwise.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=2
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE
"""


def missing() -> list[str]:
    """The programs that are not installed here."""
    return [name for name in PROGRAMS if _program(name) is None]


@contextmanager
def running(folder: Path) -> Iterator[dict[str, str]]:
    """Start it in a new folder and wait until its node is idle; gives the environment by which commands find it."""
    folder.mkdir()
    configuration, host = folder / "slurm.conf", socket.gethostname().split(".")[0]
    ports = dict(zip(("controller_port", "node_port"), _free_ports(2), strict=True))
    configuration.write_text(
        CONFIGURATION.format(host=host, folder=folder, user=pwd.getpwuid(os.getuid()).pw_name, **ports)
    )
    munge = {name: folder / f"munge.{name}" for name in ("key", "pid", "log", "seed", "socket")}
    munge["key"].touch(mode=0o600)
    munge["key"].write_bytes(secrets.token_bytes(128))
    paths = [f"--{name}{'' if name == 'socket' else '-file'}={path}" for name, path in munge.items()]
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    with ExitStack() as stack:

        def start(*command: str) -> None:
            stack.enter_context(_daemon(folder, environment, command))

        start("munged", "--foreground", "--force", *paths)  # by force, since the folder may be this user's alone
        _wait(folder, munge["socket"].exists)
        start("slurmctld", "-D")
        start("slurmd", "-D")
        _wait(folder, lambda: _ask(environment, "sinfo", "--noheader", "--format=%T") == "idle")
        try:
            yield environment
        finally:
            _ask(environment, "scancel", f"--user={os.getuid()}")
            _wait(folder, lambda: not _ask(environment, "squeue", "--noheader"))  # or jobs outlive their daemons


def _program(name: str) -> str | None:
    """Where a program is; those of daemons may lie where only root's PATH leads."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def _daemon(folder: Path, environment: dict[str, str], command: tuple[str, ...]) -> Iterator[None]:
    """A daemon in the foreground of a session of its own, so that Ctrl-C leaves it to us; stopped at the end."""
    program = _program(command[0])
    assert program is not None, f"{command[0]} is not installed"
    with open(folder / f"{command[0]}.out", "wb") as out:
        process = subprocess.Popen(
            [program, *command[1:]],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ask(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.strip()


def _wait(folder: Path, happened: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not happened():
        logs = "\n".join(f"{path}:\n{path.read_text()}" for path in sorted(folder.glob("*.out")))
        assert time.monotonic() < until, f"it does not start, or not stop\n{logs}"
        time.sleep(0.1)


def main() -> None:
    assert not missing(), f"not installed: {', '.join(missing())}"
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with running(Path(sys.argv[1]).absolute()) as environment:
        print(f"export SLURM_CONF={environment['SLURM_CONF']}", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            print("stopping")


if __name__ == "__main__":
    main()
