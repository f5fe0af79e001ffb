"""The published first tasks, on the real digits: what the authors' code gives on this data, within narrow bands."""

import os
from pathlib import Path

import pytest

from lopbench import config, experiment
from lopbench.analysis.results import load

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "data"
DATA = Path(os.environ.get("LOPBENCH_DATA_DIR") or BESIDE)

needs_mnist = pytest.mark.skipif(
    not (DATA / "MNIST" / "raw").is_dir(),
    reason=f"MNIST is not in {DATA}: point LOPBENCH_DATA_DIR to a folder that holds MNIST/raw",
)


@needs_mnist
@pytest.mark.study
def test_sgd_and_swr_reach_the_published_accuracies(tmp_path):
    """Ten tasks of the 100-unit network, six seeds: mean online accuracy of each task.

    A task has hundreds of steps, in which float32's rounding grows to differences of whole runs: so bands, not digits.
    """
    lines = [
        "run.seeds = 6",
        "run.max_tasks = 10",
        "run.metrics = []",
        "run.variants = {'sgd': [], 'swr': ['permuted_mnist/swr.gin']}",
    ]
    request = config.read(["permuted_mnist/methods.gin"], lines)
    assert experiment.execute(request, experiment.Setting(str(tmp_path / "run"), data_dir=str(DATA), device="cpu")) == 0
    rows = load(tmp_path / "run", ["task/online_accuracy"])
    means = {name: mine.groupby("task")["value"].mean() for name, mine in rows.groupby("variant", observed=True)}
    assert means["sgd"].index.tolist() == list(range(10))
    assert 0.910 <= means["sgd"][0] <= 0.915
    assert means["sgd"][1:].between(0.918, 0.930).all(), means["sgd"].to_dict()
    assert means["swr"][1:].between(0.922, 0.932).all(), means["swr"].to_dict()
