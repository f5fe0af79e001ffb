"""One process a folder: who is refused, which locks are stale, and that one process alone takes over."""

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
import pytest

from lopbench import files, lock
from lopbench.errors import UserError
from tests.faulty_disk import FaultyDisk

HOLDER = """
import sys
from lopbench import errors, lock
try:
    with lock.hold(sys.argv[1]):
        print("held", flush=True)
        sys.stdin.read()
except errors.UserError as error:
    print(error)
"""


@pytest.fixture
def start(tmp_path):
    """Starts processes that hold `tmp_path` until their input ends, or print why they can't."""
    started = []

    def start():
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", HOLDER, str(tmp_path)]
        started.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def answer(process):
    return process.stdout.readline().strip()


def edit(folder, **changes):
    """Change what the lock of this folder says, but not its heartbeat."""
    path = folder / "lock.json"
    beat = path.stat().st_mtime_ns
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    os.utime(path, ns=(beat, beat))


def age(path, seconds):
    """Make a heartbeat older, from now."""
    os.utime(path)
    beat = path.stat().st_mtime - seconds
    os.utime(path, (beat, beat))


def leave(folder, **changes):
    """Leave a lock behind in this folder: one of this process, with changes."""
    with lock.hold(folder):
        edit(folder, **changes)
    assert (folder / "lock.json").exists()


def until(true):
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_folder_is_held_within_the_context(tmp_path):
    with lock.hold(tmp_path) as held:
        held.check()
        told = json.loads((tmp_path / "lock.json").read_text())
        assert set(told) == {"host", "pid_space", "pid", "started", "token", "since"}
        assert told["pid"] == os.getpid()
        assert os.listdir(tmp_path) == ["lock.json"]
    assert os.listdir(tmp_path) == []


def test_an_error_within_gives_the_folder_back(tmp_path):
    with pytest.raises(KeyboardInterrupt), lock.hold(tmp_path):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path, start):
    first = start()
    assert answer(first) == "held"
    since = json.loads((tmp_path / "lock.json").read_text())["since"]
    second = answer(start())
    assert second.startswith(f"{tmp_path} is in use by process {first.pid} on {socket.gethostname()}, since {since}:")
    assert "another --workdir, or stop that process." in second
    assert "waiting" not in second  # for as long as that process lives
    first.communicate()
    assert os.listdir(tmp_path) == []
    assert answer(start()) == "held"


def test_a_process_is_refused_what_it_holds_itself(tmp_path):
    with lock.hold(tmp_path) as held:
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} "), lock.hold(tmp_path):
            pass
        held.check()


@pytest.mark.parametrize("collected", [True, False])  # False: what is left of it is a zombie
def test_the_lock_of_a_killed_process_is_taken_over_at_once(tmp_path, start, capfd, collected):
    first = start()
    assert answer(first) == "held"
    first.kill()
    if collected:
        first.wait()
    else:
        until(lambda: psutil.Process(first.pid).status() == psutil.STATUS_ZOMBIE)
    with lock.hold(tmp_path) as held:
        held.check()
        line = capfd.readouterr().err
        assert line.count("\n") == 1
        assert f"left behind by process {first.pid} on " in line
        assert os.listdir(tmp_path) == ["lock.json"]


def test_a_live_process_of_this_host_holds_however_old_its_heartbeat(tmp_path, start):
    first = start()
    assert answer(first) == "held"
    first.send_signal(signal.SIGSTOP)
    age(tmp_path / "lock.json", 1e6)
    with pytest.raises(UserError, match=f"in use by process {first.pid} "), lock.hold(tmp_path):
        pass


def test_a_process_of_the_same_number_that_started_at_another_time_is_another(tmp_path):
    leave(tmp_path, started=0.0)
    with lock.hold(tmp_path) as held:
        held.check()


ELSEWHERE = [{"host": "elsewhere"}, {"pid_space": "another boot, or another container"}]


@pytest.fixture
def beating(tmp_path, monkeypatch):
    """Starts a process elsewhere that renews the lock's heartbeat now and then."""
    monkeypatch.setattr(lock, "_POLL", 0.01)
    ended = threading.Event()

    def beat():
        while not ended.wait(0.1):
            os.utime(tmp_path / "lock.json")

    thread = threading.Thread(target=beat)
    yield thread.start
    ended.set()
    if thread.ident:
        thread.join()


@pytest.mark.parametrize("place", ELSEWHERE)
def test_a_process_elsewhere_holds_if_it_gives_a_sign_of_life(tmp_path, monkeypatch, capsys, beating, place):
    leave(tmp_path, **place, pid=1)
    age(tmp_path / "lock.json", 20)
    monkeypatch.setattr(time, "time", lambda: 0.0)  # the clock of this host doesn't matter
    beating()
    with pytest.raises(UserError, match="in use by process 1 on "), lock.hold(tmp_path):
        pass
    left = int(re.search(r"waiting (\d+) s for a sign of life", capsys.readouterr().err)[1])
    assert lock.STALE - 40 <= left <= lock.STALE - 19
    assert os.listdir(tmp_path) == ["lock.json"]


@pytest.mark.parametrize("place", ELSEWHERE)
def test_a_process_elsewhere_without_a_sign_of_life_is_taken_over(tmp_path, beating, place):
    leave(tmp_path, **place, pid=1)
    age(tmp_path / "lock.json", 20)
    began = time.monotonic()
    with lock.hold(tmp_path, stale=20.3) as held:
        assert time.monotonic() - began > 0.2
        held.check()


def test_a_process_elsewhere_that_gives_the_folder_back_is_followed_at_once(tmp_path, beating):
    leave(tmp_path, host="elsewhere")
    timer = threading.Timer(0.1, os.remove, [tmp_path / "lock.json"])
    timer.start()
    with lock.hold(tmp_path) as held:
        held.check()
    timer.join()


@pytest.mark.parametrize("content", [b"", b'{"pid": 1', b"null", b"[]", b"\xff", b"[" * 10**5, b'{"pid": -1}'])
def test_what_can_not_be_read_is_judged_by_its_heartbeat(tmp_path, content, beating):
    path = tmp_path / "lock.json"
    path.write_bytes(content)
    beating()
    with pytest.raises(UserError, match="in use by an unknown process"), lock.hold(tmp_path):
        pass
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b'{"pid": 1'])
def test_what_can_not_be_read_and_gives_no_sign_of_life_is_taken_over(tmp_path, content):
    path = tmp_path / "lock.json"
    path.write_bytes(content)
    age(path, lock.STALE + 1)
    with lock.hold(tmp_path) as held:
        held.check()


def test_the_heartbeat_is_renewed(tmp_path):
    with lock.hold(tmp_path, heartbeat=0.01):
        age(tmp_path / "lock.json", 1000)
        old = (tmp_path / "lock.json").stat().st_mtime
        until(lambda: (tmp_path / "lock.json").stat().st_mtime > old + 900)


def test_who_was_taken_over_is_told_and_leaves_the_others_lock_alone(tmp_path):
    with lock.hold(tmp_path, heartbeat=0.01) as held:
        edit(tmp_path, host="elsewhere", pid=7, token="another")
        age(tmp_path / "lock.json", 1000)
        old = (tmp_path / "lock.json").stat().st_mtime
        time.sleep(0.1)  # ten heartbeats
        with pytest.raises(lock.LockLostError, match=r"This run stops: process 7 on elsewhere, .* has taken over"):
            held.check()
    assert (tmp_path / "lock.json").stat().st_mtime == old


def test_a_folder_that_vanishes_is_told_by_the_check_alone(tmp_path, monkeypatch):
    raised = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    folder = tmp_path / "workdir"
    folder.mkdir()
    with lock.hold(folder, heartbeat=0.01) as held:
        shutil.rmtree(folder)
        time.sleep(0.1)  # ten heartbeats
        with pytest.raises(lock.LockLostError, match=r"lock\.json is gone"):
            held.check()
    assert raised == []
    assert not folder.exists()


def test_a_heartbeat_that_fails_for_a_while_goes_on(tmp_path, monkeypatch):
    with lock.hold(tmp_path, heartbeat=0.01) as held:
        monkeypatch.setattr(files, "disk", disk := FaultyDisk(0, errno.ESTALE, for_good=True))
        age(tmp_path / "lock.json", 1000)
        old = (tmp_path / "lock.json").stat().st_mtime
        until(lambda: disk.names.count("touch") > 2)
        assert (tmp_path / "lock.json").stat().st_mtime == old
        monkeypatch.setattr(files, "disk", files.Disk())
        until(lambda: (tmp_path / "lock.json").stat().st_mtime > old + 900)
        held.check()


RACE = """
import os, sys, time
from lopbench import errors, lock

start = time.monotonic() + 0.05
answers, end = os.pipe(), os.pipe()
for _ in range(8):
    if os.fork() == 0:
        os.close(end[1])
        time.sleep(max(0.0, start - time.monotonic()))
        try:
            with lock.hold(sys.argv[1]) as held:
                os.write(answers[1], b"held ")
                os.read(end[0], 1)  # until all have answered
                held.check()
                os.write(answers[1], b"to the end ")
        except errors.UserError:
            os.write(answers[1], b"refused ")
        os._exit(0)
os.close(answers[1])
told = b""
while len(told.split()) < 8:
    told += os.read(answers[0], 100)
os.close(end[1])
while more := os.read(answers[0], 100):
    told += more
print(told.decode())
"""


KILLED = """
import os, signal, sys
from lopbench import files, lock
files.Disk.rename = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
lock.hold(sys.argv[1]).__enter__()
"""


@pytest.mark.parametrize("killed", [0, 1, 2])  # how many were killed just before they had taken over
def test_of_many_that_find_a_stale_lock_at_once_one_takes_over(tmp_path, killed):
    for _ in range(2):
        leave(tmp_path, started=0.0)
        for _ in range(killed):
            subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
        assert len(os.listdir(tmp_path)) == 1 + killed
        race = subprocess.run([sys.executable, "-c", RACE, tmp_path], capture_output=True, text=True, check=True)
        told = race.stdout.split()
        assert (told.count("refused"), told.count("held")) == (7, 1)
        assert told[-3:] == ["to", "the", "end"]
        assert race.stderr.count("left behind by") == 1
        assert os.listdir(tmp_path) == []


def test_a_forked_child_has_no_part_in_the_lock(tmp_path):
    code = (
        "import os, sys\n"
        "from lopbench import lock\n"
        "with lock.hold(sys.argv[1]) as held:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        sys.exit()\n"
        "    os.waitpid(child, 0)\n"
        "    held.check()\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)
    assert os.listdir(tmp_path) == []


def test_a_read_only_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "disk", FaultyDisk(0, errno.EROFS, for_good=True))
    with pytest.raises(UserError, match=r"lock\.json: the file system is read-only"), lock.hold(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"lock\.json: its folder does not exist"), lock.hold(tmp_path / "gone"):
        pass


def test_what_can_be_neither_made_nor_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_PAUSE", 0.0)
    (tmp_path / "lock.json").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="If not, remove it"), lock.hold(tmp_path):
        pass


def test_whatever_fails_as_a_lock_is_taken_over_leaves_it_to_the_next(tmp_path, monkeypatch):
    def take(disk):
        leave(tmp_path, host="elsewhere")
        monkeypatch.setattr(files, "disk", disk)
        with lock.hold(tmp_path, stale=0.0) as held:
            held.check()
            disk.n = None  # what fails at the end is no error: the lock of a process that is gone is stale
            return list(disk.names)

    operations = take(FaultyDisk())
    assert operations == ["open", "close", "touch", "remove", "open", "write", "close", "rename"]
    for n in range(len(operations)):
        monkeypatch.setattr(files, "disk", files.Disk())
        with pytest.raises(UserError, match="Can't write"):
            take(FaultyDisk(n, errno.EIO))
        monkeypatch.setattr(files, "disk", files.Disk())
        with lock.hold(tmp_path, stale=0.0):
            pass
        assert "lock.json" not in os.listdir(tmp_path)


def test_the_lock_is_there_before_torch_is(tmp_path):
    subprocess.run([sys.executable, "-c", "import lopbench.lock, sys; assert 'torch' not in sys.modules"], check=True)
