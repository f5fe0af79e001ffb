"""What the gin files reproduce, read off their headers: `python -m tests.gin_coverage` writes gin_configs/README.md.

A complete run begins with a comment: one sentence, the command, then paragraphs that begin with a key:

    # Permuted MNIST, the 100-unit network, plain SGD.
    #
    #   python -m lopbench.main --gin_file=permuted_mnist/sgd.gin --data_dir=DIR
    #
    # Source: paper, and what of it.
    # Expected: a number and where it is from; or "no published number".
    # Changed: what differs from what was published, and why; only if something does.
    # Row: what the publication calls it; several with commas; only if it has a name.

`Time:` and `Most worth changing:` may follow. A gin file without a command is a fragment; an overlay calls itself one.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "gin_configs"
README = FOLDER / "README.md"

KEY = re.compile(r"(Source|Expected|Changed|Row|Time[\w ]*|Most worth changing): ")
COMMAND = "python -m lopbench.main --gin_file="

#: what the folders of complete runs hold, in the order of the table
FOLDERS = {
    "": "The first things to run",
    "slowly_changing_regression": "Slowly-changing regression: Dohare et al. 2024 (Nature)",
    "permuted_mnist": "Permuted MNIST in batches of 30: Hernandez-Garcia et al. 2025 (SWR)",
    "permuted_mnist_online": "Permuted MNIST image by image: Dohare et al. 2024 (Nature)",
    "permuted_mnist_l2_init": "Permuted MNIST in batches of 16, 10,000 images a task: Kumar et al. 2023 (L2 Init)",
    "random_label_mnist": "Random-label MNIST: Kumar et al. 2023 (L2 Init)",
    "random_label_cifar": "Random-label CIFAR-10: Kumar et al. 2023 (L2 Init)",
    "five_plus_one_cifar": "5+1 CIFAR-100, hard and easy tasks in turn: Kumar et al. 2023 (L2 Init)",
    "continual_imagenet": "Continual ImageNet, 250 epochs a task: Dohare et al. 2024 (Nature)",
    "continual_imagenet_l2_init": "Continual ImageNet, 10 epochs a task: Kumar et al. 2023 (L2 Init)",
    "incremental_cifar": "Class-incremental CIFAR-100, ResNet-18: Dohare et al. 2024 (Nature)",
    "incremental_cifar_vit": "Class-incremental CIFAR-100, vision transformer: Hernandez-Garcia et al. 2025 (SWR)",
    "cifar_vit": "CIFAR-100 as one task, vision transformer: Hernandez-Garcia et al. 2025 (SWR)",
    "incremental_photographs": "Class-incremental photographs, small enough for a CPU",
}

#: folders that hold fragments only
FRAGMENTS = ("architectures", "metrics", "optimizers", "strategies", "streams")

INTRODUCTION = """\
# Gin files

A complete run is one experiment of a paper with one method, as published; the tables below have all of them.

```sh
python -m lopbench.main --gin_file=permuted_mnist/swr.gin --data_dir=DIR
```

- There is one folder for each protocol: the same data set under the rules of another paper is another folder.
- The head of each file says what it reproduces, what to expect, and what differs from the publication.
- Most files are a few lines: they include another run, or fragments, and bind what differs.
- `architectures/`, `streams/`, `optimizers/`, `strategies/` and `metrics/` hold fragments: one part each, with the
  published values in the comments. A `common.gin` is what the runs of its folder share.
- `tiny.gin` is an overlay: after any run it shrinks it to a check of seconds:
  `python -m lopbench.main --gin_file=swr_vit.gin --gin_file=tiny.gin`.
- A line `sweep.grid = {'kind.Part.parameter': [values]}` makes a variant of every combination of values; those that
  differ in numbers alone train side by side, with `python -m launch.local` (or `launch.slurm`) structures beside each
  other, too. To run some of them, bind it again:
  `--gin_bindings="sweep.grid = {'optimizers.SGD.learning_rate': [0.003]}"`.

Published numbers, with their sources, are in `third_party/published/`. This page is generated from the files:
`python -m tests.gin_coverage`.
"""


@dataclass(frozen=True)
class Run:
    """A complete run, as its header describes it."""

    path: Path
    title: str
    command: str
    notes: dict[str, str] = field(default_factory=dict)  # by key

    @property
    def name(self) -> str:
        """The file as `--gin_file` takes it: `permuted_mnist/swr.gin`."""
        return self.path.relative_to(FOLDER).as_posix()

    @property
    def folder(self) -> str:
        """The protocol's folder; "" of a file that lies in none."""
        return self.name.rpartition("/")[0].partition("/")[0]


def complete_runs() -> list[Run]:
    """Every complete run among the shipped files: by protocol, then by name, a folder's own files first."""
    files = sorted(FOLDER.rglob("*.gin"), key=lambda path: (path.parent, path.name))
    found = [run for run in map(read, files) if run.command and not run.title.startswith("Overlay")]
    return [
        run
        for folder in dict.fromkeys([*FOLDERS, *(run.folder for run in found)])
        for run in found
        if run.folder == folder
    ]


def read(path: Path) -> Run:
    """The header of a gin file; a fragment has no command."""
    text = path.read_text(encoding="utf-8")
    lines = [line[1:].strip() for line in itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())]
    title = " ".join(itertools.takewhile(bool, lines))
    command = next((line for line in lines if line.startswith(COMMAND)), "")
    notes: dict[str, list[str]] = {}
    key = None
    for line in lines:
        if start := KEY.match(line):
            key, line = start[1], line[start.end() :]
        elif not line:
            key = None
        if key:
            notes.setdefault(key, []).append(line)
    return Run(path, title, command, {key: " ".join(note) for key, note in notes.items()})


def readme() -> str:
    """The text of gin_configs/README.md."""
    runs = complete_runs()
    counts = {name: sum(run.folder == name for run in runs) for name in FOLDERS}
    lines = [INTRODUCTION, "| folder | runs | protocol |", "|---|---|---|"]
    lines += [f"| {_folder(name)} | {counts[name]} | {what} |" for name, what in FOLDERS.items() if counts[name]]
    for name, what in FOLDERS.items():
        if counts[name]:
            lines += ["", f"## {what}", "", "| file | run | source | expected |", "|---|---|---|---|"]
            lines += [_row(run) for run in runs if run.folder == name]
    return "\n".join([*lines, ""])


def _folder(name: str) -> str:
    return f"`{name}/`" if name else "(in none)"


def _row(run: Run) -> str:
    cells = (
        f"[{run.name.removeprefix(f'{run.folder}/')}]({run.name})",
        run.title,
        run.notes.get("Source", ""),
        run.notes.get("Expected", ""),
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    README.write_text(readme(), encoding="utf-8")
