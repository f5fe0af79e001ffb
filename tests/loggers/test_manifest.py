"""run.json: what it says, how a run ended, and that a resume keeps the first start."""

import json
from datetime import datetime, timedelta

import pytest
import torch

import lopbench
from lopbench.loggers import manifest
from lopbench.loggers.manifest import Manifest

CPU = torch.device("cpu")


def a_run(workdir) -> Manifest:
    return Manifest(workdir, ["lopbench", "--workdir=x"], CPU, {"base": (5, 6), "swr": (5,)})


def test_says_what_runs_on_what(tmp_path):
    a_run(tmp_path).update(executors={"base": "compiled"})
    found = json.loads((tmp_path / "run.json").read_text())
    assert (found["status"], found["ended"]) == ("running", None)
    assert found["command"] == ["lopbench", "--workdir=x"]
    assert found["seeds"] == {"base": [5, 6], "swr": [5]}
    assert found["executors"] == {"base": "compiled"}
    assert found["device"].startswith("cpu (")
    assert set(found["versions"]) == {"python", "lopbench", *manifest.PACKAGES}
    assert found["versions"]["lopbench"] == lopbench.__version__
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert datetime.fromisoformat(found["started"]).utcoffset() == timedelta(0)


def test_says_that_the_run_finished(tmp_path):
    with a_run(tmp_path).finishing():
        assert manifest.read(tmp_path)["status"] == "running"
    found = manifest.read(tmp_path)
    assert found["status"] == "finished"
    assert found["ended"] >= found["started"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), "interrupted"), (SystemExit(75), "interrupted"), (OSError("x"), "failed")],
)
def test_says_how_it_ended_otherwise(tmp_path, error, status):
    with pytest.raises(type(error)), a_run(tmp_path).finishing():
        raise error
    found = manifest.read(tmp_path)
    assert found["status"] == status
    assert found.get("error") == ("OSError: x" if status == "failed" else None)


def test_a_resume_keeps_the_first_start(tmp_path):
    a_run(tmp_path).update(started="2000-01-01T00:00:00+00:00", status="interrupted")
    a_run(tmp_path)
    found = manifest.read(tmp_path)
    assert (found["status"], found["started"]) == ("running", "2000-01-01T00:00:00+00:00")
    assert len(found["resumed"]) == 1


def test_a_damaged_file_is_no_obstacle(tmp_path):
    (tmp_path / "run.json").write_text('{"status": "run')
    assert manifest.read(tmp_path) == {}
    a_run(tmp_path)
    assert manifest.read(tmp_path)["status"] == "running"


def test_outside_a_checkout_there_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.setattr(lopbench, "__file__", str(tmp_path / "lopbench" / "__init__.py"))
    assert manifest.git_revision() is None
