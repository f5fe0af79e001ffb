"""The wheel: it holds every module and gin file, says what it is and needs, and runs away from the checkout."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
#: folders of the checkout, and where they lie in the wheel
FOLDERS = {
    "lopbench": "lopbench",
    "gin_configs": "lopbench/gin_configs",
    "launch": "lopbench/launch",
    "third_party/published": "lopbench/published",
}


def installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


pytestmark = pytest.mark.skipif(
    not (installed("build") and installed("setuptools")),
    reason="the packages build and setuptools are not installed (pip install -e '.[test]')",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked; built from a copy, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if line]
    shutil.copytree(ROOT, folder / "copy", ignore=shutil.ignore_patterns(".git", *ignored))
    command = [sys.executable, "-P", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    done = subprocess.run(command, cwd=folder / "copy", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    assert built.name.startswith("lopbench-0.1.0-py3-none-any")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


@pytest.fixture
def distribution(wheel: Path) -> metadata.Distribution:
    return metadata.Distribution.at(wheel / "lopbench-0.1.0.dist-info")


def test_it_holds_every_module_and_every_gin_file_and_nothing_else(wheel: Path) -> None:
    expected = {
        f"{there}/{path.relative_to(ROOT / here).as_posix()}"
        for here, there in FOLDERS.items()
        for path in (ROOT / here).rglob("*")
        if path.suffix in (".py", ".gin", ".csv") or path.name == "py.typed"
    }
    assert "lopbench/py.typed" in expected and "lopbench/gin_configs/permuted_mnist/swr.gin" in expected
    found = {path.relative_to(wheel).as_posix() for path in (wheel / "lopbench").rglob("*") if path.is_file()}
    assert found == expected
    assert {path.name for path in wheel.iterdir()} == {"lopbench", "lopbench-0.1.0.dist-info"}


def test_its_metadata(distribution: metadata.Distribution) -> None:
    said = distribution.metadata
    assert (said["Name"], said["Version"], said["License-Expression"]) == ("lopbench", "0.1.0", "MIT")
    assert said["Requires-Python"] == ">=3.11.4"
    assert said.get_all("Provides-Extra") == ["bench", "slurm", "test"]
    tests = {Requirement(text).name for text in distribution.requires or () if Requirement(text).marker}
    assert {"pytest", "hypothesis", "build", "setuptools"} <= tests
    assert said.get_payload().strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()  # type: ignore[attr-defined]
    assert distribution.read_text("licenses/LICENSE") == (ROOT / "LICENSE").read_text()


def test_it_declares_what_it_imports(wheel: Path, distribution: metadata.Distribution) -> None:
    imported: set[str] = set()
    for path in (wheel / "lopbench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(str(node.module).partition(".")[0])
    packages = metadata.packages_distributions()
    needed = {packages[name][0] for name in imported - {"lopbench"} - set(sys.stdlib_module_names)}
    asked = [Requirement(text) for text in distribution.requires or ()]
    declared = {one.name for one in asked if one.marker is None or one.marker.evaluate({"extra": "slurm"})}
    assert needed <= declared


def run(wheel: Path, folder: Path, *flags: str) -> str:
    """What `python -m lopbench.main` prints in `folder`, where the unpacked wheel is all that there is of lopbench."""
    environment = {**os.environ, "PYTHONPATH": str(wheel), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-m", "lopbench.main", *flags]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_away_from_the_checkout_it_lists_its_parts(wheel: Path, tmp_path: Path) -> None:
    assert "\n  strategies.SelectiveWeightReinit: " in run(wheel, tmp_path, "--list")
    assert not list(tmp_path.iterdir())


def test_away_from_the_checkout_it_runs(wheel: Path, tmp_path: Path) -> None:
    said = run(wheel, tmp_path, "--gin_file=quickstart.gin", "--gin_file=tiny.gin", "--device=cpu")
    files = [line.removeprefix("gin file: ") for line in said.splitlines() if line.startswith("gin file: ")]
    assert files[0] == f"{wheel}/lopbench/gin_configs/quickstart.gin"
    assert all(file.startswith(str(wheel)) for file in files)
    workdir = tmp_path / "runs" / "quickstart"
    assert {path.name for path in workdir.iterdir()} >= {"config.gin", "operative_config.gin", "run.json", "metrics"}
