"""The one writer of bytes: whole files or none, errors in a sentence, and what --overwrite may remove."""

import errno
import os
import subprocess
import sys

import pytest

from lopbench import files
from lopbench.errors import UserError


def test_writes_text_as_utf8_and_replaces_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_atomically(path, b"old")
    files.write_atomically(path, "½")
    assert path.read_bytes() == "½".encode()
    assert os.listdir(tmp_path) == ["a.json"]  # nothing is left aside


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_aside(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_atomically(path, "old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"a\.json: the disk is full"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_killed_in_the_middle_of_a_write_the_old_file_is_there(tmp_path):
    path = tmp_path / "a.json"
    files.write_atomically(path, "old")
    code = (
        "import os, signal, sys\n"
        "from lopbench import files\n"
        "os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_atomically(sys.argv[1], 'new')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False, cwd=os.getcwd())
    assert path.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == [".a.json.tmp", "a.json"]  # aside, and passed by: its name starts with a dot
    files.write_atomically(path, "newer")
    assert os.listdir(tmp_path) == ["a.json"]


def test_refusals_name_the_path_and_the_reason(tmp_path):
    with pytest.raises(UserError, match=r"gone.a\.json: its folder does not exist"):
        files.write_atomically(tmp_path / "gone" / "a.json", "x")
    with pytest.raises(UserError, match=r"gone.events: its folder does not exist"):
        files.append(tmp_path / "gone" / "events", b"x")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        files.make_folder(tmp_path / "file" / "below")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder: there is a folder of that name"):
        files.write_atomically(tmp_path / "folder", "x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_append_adds_to_the_end(tmp_path):
    files.append(tmp_path / "events", b"a")
    files.append(tmp_path / "events", b"b")
    assert (tmp_path / "events").read_bytes() == b"ab"


def test_claims_a_new_folder_and_one_with_other_files(tmp_path):
    assert files.claim_workdir(tmp_path / "a" / "b").is_dir()
    (tmp_path / "a" / "notes.txt").write_text("mine")
    files.claim_workdir(tmp_path / "a")
    assert (tmp_path / "a" / "notes.txt").exists()


def test_a_path_that_is_a_file_is_refused_even_with_overwrite(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        files.claim_workdir(tmp_path / "file", overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("result", ["run.json", "metrics/part-000000.parquet"])
def test_another_runs_results_are_refused_unless_overwrite(tmp_path, result):
    (tmp_path / result).parent.mkdir(exist_ok=True)
    (tmp_path / result).write_text("")
    with pytest.raises(UserError, match="--overwrite"):
        files.claim_workdir(tmp_path)
    assert (tmp_path / result).exists()
    files.claim_workdir(tmp_path, overwrite=True)
    assert os.listdir(tmp_path) == []


def test_overwrite_removes_what_a_run_wrote_and_nothing_else(tmp_path):
    written = [
        "run.json",
        "config.gin",
        "operative_config.gin",
        "metrics/part-000000.parquet",
        "metrics/.part-000001.parquet.tmp",
        "tensorboard/base/seed_000/events.out.tfevents.1.0000",
        "checkpoints/step-100/state.safetensors",
        "checkpoints/step-100/state.json",
        "figures/plasticity_task.online_loss.png",
    ]
    mine = ["metrics/notes.txt", "figures/mine.png", "tensorboard/base/notes.txt", "data/train.bin", "other.gin"]
    for name in written + mine:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    files.claim_workdir(tmp_path, overwrite=True)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == sorted(mine)
    assert not (tmp_path / "checkpoints").exists()


def test_overwrite_does_not_follow_links_out_of_the_folder(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "run.json").write_text("another run's")
    workdir = tmp_path / "workdir"
    workdir.mkdir()
    (workdir / "run.json").symlink_to(outside / "run.json")
    files.claim_workdir(workdir, overwrite=True)
    assert (outside / "run.json").exists()
    assert not (workdir / "run.json").is_symlink()
