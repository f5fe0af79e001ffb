"""What was run is told by what a run and a study have written, whatever is missing of it."""

import json

import pytest

from lopbench.analysis import provenance

RUN = {
    "status": "finished",
    "started": "2026-01-01T10:00:00+00:00",
    "ended": "2026-01-01T11:00:00+00:00",
    "command": ["/x/lopbench/main.py", "--gin_file=a.gin", "--gin_file", "b.gin", "--gin_bindings=run.seeds = 5"],
    "versions": {"torch": "2.15.0", "numpy": None},
    "git": {"revision": "abc", "dirty": True},
    "device": "cpu (2 cores)",
}


def write(folder, **content):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(content))
    return folder


def test_a_run_tells_its_command_files_versions_and_times(tmp_path):
    found = provenance.of(tmp_path / "mine", [write(tmp_path / "mine", **RUN)])
    assert found.name == "mine"
    assert found.files == ("a.gin", "b.gin")
    assert found.bindings == ("run.seeds = 5",)
    command = "python -m lopbench.main --gin_file=a.gin --gin_file b.gin '--gin_bindings=run.seeds = 5'"
    assert found.commands == (command,)
    assert found.versions == {"torch": "2.15.0", "numpy": "none"}
    assert found.revisions == ("abc (with changes)",)
    assert found.devices == ("cpu (2 cores)",)
    assert (found.started, found.ended) == (RUN["started"], RUN["ended"])


def test_a_study_has_its_own_name_and_files_and_the_span_and_differences_of_its_runs(tmp_path):
    later = {"started": "2026-01-02T10:00:00+00:00", "ended": None, "versions": {"torch": "2.11.0"}}
    folders = [write(tmp_path / "0", **RUN), write(tmp_path / "1", **{**RUN, **later}), tmp_path / "waiting"]
    (tmp_path / "study.json").write_text(json.dumps({"name": "sweep", "files": ["s.gin"], "bindings": []}))
    found = provenance.of(tmp_path, folders)
    assert (found.name, found.files) == ("sweep", ("s.gin",))
    assert found.versions["torch"] == "2.15.0, 2.11.0"
    assert len(found.commands) == 1
    assert (found.started, found.ended) == (RUN["started"], RUN["ended"])


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[1]",
        '{"command": 3, "git": "x", "versions": {"torch": 2}, "device": null, "started": "x", "ended": 1}',
    ],
)
def test_what_is_missing_or_damaged_is_left_out(tmp_path, content):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text(content)
    (folder / "study.json").write_text(content)
    found = provenance.of(folder, [folder])
    assert (found.name, found.commands, found.revisions) == ("run", (), ())
