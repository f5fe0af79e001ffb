"""The start of a run: what is slow to import, and needed later or never, is not imported before the first step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lopbench import lookup

ROOT = Path(__file__).parent.parent

#: a part of the user's, imported as the gin file is read; in the first step it tells what is imported, and ends it all
LOOK = """
import json
import os
import sys
from dataclasses import dataclass

import lopbench
from lopbench.protocols import Strategy

read = sorted(sys.modules)


@lopbench.register("strategies")
@dataclass(frozen=True)
class Look(Strategy):
    "Tells what is imported."

    def before_update(self, learner):
        with open("modules.json", "w") as file:
            json.dump({"read": read, "first step": sorted(sys.modules)}, file)
        os._exit(0)
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The modules there are in a process that runs quickstart.gin: as the gin file is read, and in the first step."""
    folder = tmp_path_factory.mktemp("start")
    (folder / "look.py").write_text(LOOK)
    quickstart = f"include '{lookup.shipped() / 'quickstart.gin'}'"
    lines = ["import look", quickstart, "run.strategies = [@strategies.Look]", "run.variants = {'sgd': []}"]
    (folder / "mine.gin").write_text("\n".join([*lines, "run.executor = 'eager'"]))
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lopbench.main", "--gin_file=mine.gin", "--device=cpu"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return {moment: set(names) for moment, names in json.loads((folder / "modules.json").read_text()).items()}


@pytest.mark.parametrize("name", ["PIL", "matplotlib", "pandas", "pyarrow", "scipy", "tensorboard", "torchvision"])
def test_a_gin_file_is_read_without(imported: dict[str, set[str]], name: str) -> None:
    assert "lopbench.streams.torchvision_sources" in imported["read"]  # all parts are there
    assert name not in imported["read"]


@pytest.mark.parametrize("name", ["PIL", "matplotlib", "pandas", "scipy", "torchvision"])
def test_the_first_step_is_taken_without(imported: dict[str, set[str]], name: str) -> None:
    assert {"lopbench.loggers.table", "lopbench.loggers.tensorboard"} <= imported["first step"]
    assert name not in imported["first step"]
