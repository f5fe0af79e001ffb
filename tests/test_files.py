"""The one writer of bytes: whole files or none, errors in a sentence, and what --overwrite may remove."""

import errno
import os
import subprocess
import sys

import pytest

from lopbench import files
from lopbench.errors import UserError
from tests.faulty_disk import FaultyDisk


@pytest.fixture
def use(monkeypatch):
    """Puts a disk in the place of the real one."""

    def use(disk):
        monkeypatch.setattr(files, "disk", disk)
        return disk

    return use


def test_writes_text_as_utf8_and_replaces_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_atomically(path, b"old")
    files.write_atomically(path, "½")
    assert path.read_bytes() == "½".encode()
    assert os.listdir(tmp_path) == ["a.json"]  # nothing is left aside


def test_a_disk_that_takes_few_bytes_at_a_time_gets_them_all(tmp_path, use):
    disk = use(FaultyDisk(most=3))
    files.write_atomically(tmp_path / "whole", b"0123456789")
    files.append(tmp_path / "appended", b"0123456789")
    assert files.create(tmp_path / "made", b"0123456789")
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"0123456789"}
    assert disk.names.count("write") == 12


def test_a_disk_that_takes_nothing_is_an_error_and_no_endless_loop(tmp_path, use):
    use(FaultyDisk(most=0))
    with pytest.raises(UserError, match="a: the disk, or the way to it, has failed"):
        files.write_atomically(tmp_path / "a", b"0123")
    assert os.listdir(tmp_path) == []


OPERATIONS = ["open", "write", "write", "write", "write", "sync", "close", "rename", "sync"]  # of 4 bytes, one by one


@pytest.mark.parametrize("for_good", [False, True])
@pytest.mark.parametrize("n", range(len(OPERATIONS)))
def test_whatever_fails_in_a_write_the_old_file_or_the_new_one_is_there(tmp_path, use, n, for_good):
    path = tmp_path / "a"
    path.write_text("old")
    disk = use(FaultyDisk(n, for_good=for_good, most=1))
    with pytest.raises(UserError, match="a: the disk is full"):
        files.write_atomically(path, "new!")
    renamed = "rename" in disk.names[:n]
    assert path.read_text() == ("new!" if renamed else "old")
    if not for_good:
        assert os.listdir(tmp_path) == ["a"]
    use(files.Disk())
    files.write_atomically(path, "newer")
    assert path.read_text() == "newer"
    assert os.listdir(tmp_path) == ["a"]


def test_the_operations_of_a_write_are_those_that_the_test_above_makes_fail(tmp_path, use):
    disk = use(FaultyDisk(most=1))
    files.write_atomically(tmp_path / "a", "new!")
    assert disk.names == OPERATIONS


@pytest.mark.parametrize("n", range(5))
def test_whatever_fails_in_an_append_a_second_try_leaves_nothing_torn(tmp_path, use, n):
    path = tmp_path / "events"
    path.write_bytes(b"first")
    disk = use(FaultyDisk(n, most=2))
    with pytest.raises(UserError, match="events: the disk is full"):
        files.append(path, b"second")
    assert disk.names[: n + 1] == ["open", "write", "write", "write", "close"][: n + 1]  # what follows repairs
    assert path.read_bytes() == b"first"
    files.append(path, b"second")
    assert path.read_bytes() == b"firstsecond"


@pytest.mark.parametrize("n", range(4))
def test_whatever_fails_in_making_a_file_there_is_none(tmp_path, use, n):
    use(FaultyDisk(n, most=2))
    with pytest.raises(UserError, match="lock: the disk is full"):
        files.create(tmp_path / "lock", b"mine")
    assert os.listdir(tmp_path) == []
    assert files.create(tmp_path / "lock", b"mine")


def test_a_file_that_is_there_is_not_made_and_stays(tmp_path):
    (tmp_path / "lock").write_text("theirs")
    assert not files.create(tmp_path / "lock", b"mine")
    assert (tmp_path / "lock").read_text() == "theirs"


def test_a_limit_of_the_system_met_halfway_through_a_write(tmp_path):
    """A real one: under a limit on file sizes the system takes the bytes up to it, and then refuses."""
    code = (
        "import os, resource, sys\n"
        "from lopbench import errors, files\n"
        "os.chdir(sys.argv[1])\n"
        "files.write_atomically('whole', b'old')\n"
        "files.append('events', b'first')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "for write, name in ((files.write_atomically, 'whole'), (files.append, 'events'), (files.create, 'lock')):\n"
        "    try:\n"
        "        write(name, bytes(200))\n"
        "    except errors.UserError as error:\n"
        "        print(error)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    reason = "the file would be larger than the system allows."
    assert answer.stdout.splitlines() == [f"Can't write {name}: {reason}" for name in ("whole", "events", "lock")]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"whole": b"old", "events": b"first"}


def test_killed_in_the_middle_of_a_write_the_old_file_is_there(tmp_path):
    path = tmp_path / "a.json"
    files.write_atomically(path, "old")
    code = (
        "import os, signal, sys\n"
        "from lopbench import files\n"
        "files.Disk.rename = lambda *names: os.kill(os.getpid(), signal.SIGKILL)\n"
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


@pytest.mark.parametrize(
    "error, reason",
    [
        (errno.EROFS, "the file system is read-only"),
        (errno.EIO, "the disk, or the way to it, has failed"),
        (errno.ESTALE, "the network file system has lost it"),
        (errno.ENOTCONN, "the network file system is disconnected"),
        (errno.EBUSY, os.strerror(errno.EBUSY)),  # without words of ours: the system's
    ],
)
def test_reasons_are_in_plain_words(tmp_path, use, error, reason):
    use(FaultyDisk(0, error))
    with pytest.raises(UserError, match=rf"^Can't write .*a: {reason}\.$"):
        files.write_atomically(tmp_path / "a", "x")


def test_a_file_system_without_a_sync_of_folders_will_do(tmp_path, use):
    use(FaultyDisk(5, errno.EINVAL))
    files.write_atomically(tmp_path / "a", "x")
    assert files.disk.names[4:] == ["rename", "sync"]
    assert (tmp_path / "a").read_text() == "x"


def test_append_adds_to_the_end(tmp_path):
    files.append(tmp_path / "events", b"a")
    files.append(tmp_path / "events", b"b")
    files.sync(tmp_path / "events")
    assert (tmp_path / "events").read_bytes() == b"ab"


def test_a_file_is_cut_to_a_length_that_it_has(tmp_path):
    path = tmp_path / "events"
    path.write_bytes(b"0123456789")
    files.truncate(path, 10)
    files.truncate(path, 4)
    assert path.read_bytes() == b"0123"
    with pytest.raises(UserError, match="events has 4 bytes where 10 were written"):
        files.truncate(path, 10)
    assert path.read_bytes() == b"0123"
    with pytest.raises(UserError, match="gone has 0 bytes where 1 were written"):
        files.truncate(tmp_path / "gone", 1)


def test_folders_are_made_with_those_above_only_where_asked(tmp_path):
    assert files.make_folder(tmp_path / "a" / "b" / "c").is_dir()
    assert files.make_folder(tmp_path / "a" / "b", parents=False).is_dir()
    assert files.make_folder(tmp_path / "d", parents=False).is_dir()
    with pytest.raises(UserError, match=r"vanished.metrics: its folder does not exist"):
        files.make_folder(tmp_path / "vanished" / "metrics", parents=False)
    assert not (tmp_path / "vanished").exists()


def test_a_folder_that_is_there_on_a_read_only_file_system_will_do(tmp_path, use):
    use(FaultyDisk(0, errno.EROFS, for_good=True))
    assert files.make_folder(tmp_path) == tmp_path
    with pytest.raises(UserError, match="a: the file system is read-only"):
        files.make_folder(tmp_path / "a")


def test_a_workdir_is_a_folder_there_or_not_and_none_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.workdir_at(tmp_path) == tmp_path
    assert files.workdir_at("~/runs/new") == tmp_path / "runs" / "new"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "workdir, reason",
    [
        ("file", "--workdir=file is a file"),
        ("file/below", "part of its path is a file"),
        ("n" * 300, "the name is too long"),
        ("~no_such_user/runs", "no such user's home"),
    ],
)
def test_a_workdir_that_can_be_no_folder_is_refused(tmp_path, monkeypatch, workdir, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=reason):
        files.make_folder(files.workdir_at(workdir))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    "result",
    [
        "run.json",
        "metrics/part-000000.parquet",
        "checkpoints/population-0/end.safetensors",
        "tensorboard/base/mean/events.out.tfevents.1.lopbench",
    ],
)
def test_results_are_seen_until_they_are_removed(tmp_path, result):
    assert not files.holds_results(tmp_path)
    (tmp_path / result).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / result).write_text("")
    assert files.holds_results(tmp_path)
    files.remove_results(tmp_path)
    assert os.listdir(tmp_path) == []
    assert not files.holds_results(tmp_path)


def test_what_a_run_wrote_is_removed_and_nothing_else(tmp_path):
    written = [
        "run.json",
        "config.gin",
        "operative_config.gin",
        "metrics/part-000000.parquet",
        "metrics/.part-000001.parquet.tmp",
        "tensorboard/base/seed_000/events.out.tfevents.1.0000",
        "checkpoints/population-0/step-000000000100.safetensors",
        "checkpoints/population-0/.end.safetensors.tmp",
        "figures/plasticity_task.online_loss.png",
        "figures/.plasticity.png.tmp",
        ".lock.json.0123456789abcdef",
    ]
    mine = [
        "metrics/notes.txt",
        "figures/mine.png",
        "tensorboard/base/notes.txt",
        "data/train.bin",
        "other.gin",
        "lock.json",  # of the run that removes the results of another
    ]
    for name in written + mine:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    files.remove_results(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == sorted(mine)
    assert not (tmp_path / "checkpoints").exists()


def test_results_are_not_removed_through_links_out_of_the_folder(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "run.json").write_text("another run's")
    workdir = tmp_path / "workdir"
    workdir.mkdir()
    (workdir / "run.json").symlink_to(outside / "run.json")
    files.remove_results(workdir)
    assert (outside / "run.json").exists()
    assert not (workdir / "run.json").is_symlink()
