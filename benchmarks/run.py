"""lopbench against plain PyTorch loops and JAX: tables on the screen, and in benchmarks/RESULTS.md.

python -m benchmarks.run                          everything: some 35 minutes on two cores
python -m benchmarks.run --quick                  short samples of a few cases; writes no file
python -m benchmarks.run --suite regression --data_dir DIR --cold
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
from benchmarks.comparing import has_jax
from benchmarks.ours import Setting
from benchmarks.suites import SUITES
from benchmarks.timing import CLOCKS


def main(argv: Sequence[str] | None = None) -> None:
    """Do what the flags say."""
    flags = parser().parse_args(argv)
    setting = Setting(
        torch.device(flags.device), flags.data_dir, clock=flags.clock, threads=flags.threads, cold=flags.cold
    )
    if flags.quick:
        setting = dataclasses.replace(setting, rounds=3, lasting=0.05, quick=True)
    command = " ".join(["python -m benchmarks.run", *(sys.argv[1:] if argv is None else argv)])
    if not has_jax(setting.device):
        print(f"No JAX for {flags.device} is installed (pip install -e .[bench]): it is left out.", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        output = flags.output or (Path(scratch) / "RESULTS.md" if flags.quick else report.RESULTS)
        output.parent.mkdir(parents=True, exist_ok=True)
        for name in flags.suite or SUITES:
            print(f"{name} on {flags.device}", file=sys.stderr, flush=True)
            start = time.perf_counter()
            with cold_cache() if flags.cold else contextlib.nullcontext():
                measured = SUITES[name](setting, output.parent)
            section = report.section(name, setting, measured.text, command, time.perf_counter() - start)
            print(section, flush=True)
            report.update(output, name, flags.device, section, measured)


def parser() -> argparse.ArgumentParser:
    """The flags."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--quick", action="store_true", help="short samples of a few cases, vision networks small")
    flags.add_argument("--suite", action="append", choices=SUITES, help="only this one; may be repeated")
    flags.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    flags.add_argument("--data_dir", help="the folder that holds the data sets; without it: generated images")
    flags.add_argument("--threads", type=int, help="of torch, on both sides; without it: as a run would have")
    flags.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="process: processor time, on a busy machine; with --threads 1"
    )
    flags.add_argument("--cold", action="store_true", help="an empty compiler cache, for honest compile times")
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
