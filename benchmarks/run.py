"""lopbench against plain PyTorch loops: a table on the screen, and in benchmarks/RESULTS.md.

python -m benchmarks.run                          everything, on a cold compiler cache: some minutes
python -m benchmarks.run --quick                  short samples on the usual cache; writes no file
python -m benchmarks.run --suite single --data_dir DIR
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks import report
from benchmarks.ours import Setting
from benchmarks.suites import SUITES
from benchmarks.timing import CLOCKS


def main(argv: Sequence[str] | None = None) -> None:
    """Do what the flags say."""
    flags = parser().parse_args(argv)
    setting = Setting(torch.device(flags.device), flags.data_dir, clock=flags.clock, threads=flags.threads)
    if flags.quick:
        setting = dataclasses.replace(setting, rounds=3, lasting=0.05, quick=True)
    output = flags.output or (None if flags.quick else report.RESULTS)
    command = " ".join(["python -m benchmarks.run", *(sys.argv[1:] if argv is None else argv)])
    for name in flags.suite or SUITES:
        start = time.perf_counter()
        with contextlib.nullcontext() if flags.quick else cold_cache():
            body = SUITES[name](setting)
        section = report.section(name, setting, body, command, time.perf_counter() - start)
        print(section, flush=True)
        if output:
            report.update(output, name, flags.device, section)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--quick", action="store_true", help="short samples, few rounds, the usual compiler cache")
    flags.add_argument("--suite", action="append", choices=SUITES, help="only this one; may be repeated")
    flags.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    flags.add_argument("--data_dir", help="the folder that holds MNIST; without it: generated images of its shape")
    flags.add_argument("--threads", type=int, help="of torch, for both sides; without it: as a run would have")
    flags.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="process: processor time, on a busy machine; with --threads 1"
    )
    flags.add_argument("--output", type=Path, help="the file whose sections are replaced (benchmarks/RESULTS.md)")
    return flags


@contextlib.contextmanager
def cold_cache() -> Iterator[None]:
    """An empty compiler cache, so that compile times are those of a first run."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    usual = os.environ.get(name)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[name] = folder
        try:
            yield
        finally:
            os.environ.pop(name)
            if usual is not None:
                os.environ[name] = usual


if __name__ == "__main__":
    main()
