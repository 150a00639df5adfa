"""One driver at a time: who is refused, who waits, whose lock is taken over, what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from distcorr.data import lock
from distcorr.data.lock import Owner, _Lock, check, held
from distcorr.data.storage import Folder
from distcorr.errors import USAGE, DistcorrError


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"BEAT": 0.05, "DEAD": 0.6, "_LOOK": 0.05}.items():
        monkeypatch.setattr(lock, name, seconds)


def silent(_: str) -> None:
    pass


def files(folder: Folder) -> list[str]:
    return sorted(os.listdir(folder.uri))


def elsewhere(**facts: object) -> Owner:
    """An owner on another machine."""
    made = replace(Owner.me(), host="node7", machine="another boot", job="raysubmit_x")
    return replace(made, **facts)


def write(folder: Folder, owner: Owner) -> None:
    folder.write_json(owner.name, asdict(owner))


def test_the_second_is_told_who_is_there_and_comes_after_the_first(folder: Folder) -> None:
    first, second = _Lock(folder), _Lock(folder)
    first.acquire(False, silent)
    with pytest.raises(DistcorrError) as caught:
        second.acquire(False, silent)
    assert caught.value.exit_code == USAGE
    me = first.me
    for said in (folder.uri, me.host, f"process {me.pid}", me.since, me.last):
        assert said in caught.value.message
    assert "--wait" in caught.value.hint
    assert files(folder) == [me.name]
    first.release()
    again = _Lock(folder)
    again.acquire(False, silent)
    again.release()
    assert files(folder) == []


@pytest.mark.parametrize("end", [None, ValueError, KeyboardInterrupt])
def test_it_is_released_however_the_work_ends(
    folder: Folder, end: type[BaseException] | None
) -> None:
    def work() -> None:
        with held(folder):
            assert len(files(folder)) == 1
            with held(folder):  # a command holds what its stages hold
                assert len(files(folder)) == 1
            assert len(files(folder)) == 1
            if end:
                raise end

    if end:
        with pytest.raises(end):
            work()
    else:
        work()
    assert files(folder) == []
    assert not [t for t in threading.enumerate() if t.name == "distcorr-lock"]


def test_no_empty_folder_is_left(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "runs" / "new")
    with held(folder):
        pass
    assert files(Folder(tmp_path)) == []
    with held(folder):
        folder.write("kept", b"")
    assert files(folder) == ["kept"]


def test_of_many_that_come_at_once_one_gets_in(folder: Folder) -> None:
    start, got, refused = threading.Barrier(6), [], []

    def come() -> None:
        mine = _Lock(folder)
        start.wait()
        try:
            mine.acquire(False, silent)
            got.append(mine)
        except DistcorrError:
            refused.append(mine)

    threads = [threading.Thread(target=come) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 5)
    got[0].release()


@pytest.mark.usefixtures("quick")
def test_those_who_wait_get_in_one_after_the_other(folder: Folder) -> None:
    inside, most, entered, said = [0], [0], [0], []
    guard, start = threading.Lock(), threading.Barrier(5)

    def come() -> None:
        mine = _Lock(folder)
        start.wait()
        mine.acquire(True, said.append)
        with guard:
            inside[0] += 1
            entered[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        with guard:
            inside[0] -= 1
        mine.release()

    threads = [threading.Thread(target=come) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most[0], entered[0]) == (1, 5)
    assert all(line.startswith("waiting for ") for line in said)
    assert said
    assert files(folder) == []


def test_a_killed_process_is_followed_at_once(folder: Folder) -> None:
    script = (
        "import sys\n"
        "from distcorr.data.lock import held\n"
        "from distcorr.data.storage import Folder\n"
        "with held(Folder(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", script, folder.uri]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(DistcorrError, match=f"process {process.pid}"), held(folder):
            pass
        process.send_signal(signal.SIGKILL)
        while not Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].startswith(" Z"):
            time.sleep(0.01)  # not yet waited for by its parent: dead all the same
        assert len(files(folder)) == 1
        with held(folder):
            assert len(files(folder)) == 1
    assert files(folder) == []


def test_another_process_of_the_same_number_is_not_the_owner(folder: Folder) -> None:
    write(folder, replace(Owner.me(), token="0", born="12345"))
    with held(folder):
        assert files(folder) != [".lock-0.json"]


def test_a_process_of_that_number_elsewhere_says_nothing(folder: Folder) -> None:
    """Containers share host names and number their processes from 1."""
    other = elsewhere(token="0", host=Owner.me().host, pid=2**22 + 1)
    write(folder, other)
    mine = _Lock(folder)
    assert list(mine._others().values()) == [False]  # not known to live, and not dead


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("clock", ["1970-01-01 00:00:00 UTC", "2999-01-01 00:00:00 UTC"])
def test_a_silent_owner_elsewhere_is_given_up_whatever_its_clock_says(
    folder: Folder, clock: str
) -> None:
    write(folder, elsewhere(last=clock, since=clock))
    said: list[str] = []
    began = time.monotonic()
    with held(folder, say=said.append):
        assert time.monotonic() - began > lock.DEAD
        assert len(files(folder)) == 1
    assert len(said) == 1
    assert "node7" in said[0]
    assert "raysubmit_x" in said[0]


@pytest.mark.usefixtures("quick")
def test_an_owner_elsewhere_that_beats_lives_whatever_its_clock_says(folder: Folder) -> None:
    other, over = elsewhere(last="1970-01-01 00:00:00 UTC"), threading.Event()
    write(folder, other)

    def beat() -> None:
        beats = 0
        while not over.wait(0.1):
            beats += 1
            write(folder, replace(other, beats=beats))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(DistcorrError, match="node7"), held(folder):
            pass
    finally:
        over.set()
        thread.join()
    assert files(folder) == [other.name]


@pytest.mark.usefixtures("quick")
def test_a_file_that_says_nothing_is_somebody_until_it_is_silent(folder: Folder) -> None:
    folder.write(".lock-strange.json", b"{")
    mine = _Lock(folder)
    assert [owner.token for owner in mine._others()] == ["strange"]
    with held(folder):
        assert ".lock-strange.json" not in files(folder)


@pytest.mark.usefixtures("quick")
def test_the_heart_beats_and_survives_a_storage_that_fails(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures, write_json = [], Folder.write_json

    def sometimes(self: Folder, name: str, value: object) -> None:
        if len(failures) < 2 and value["beats"]:  # type: ignore[index]
            failures.append(name)
            raise DistcorrError("no answer")
        write_json(self, name, value)

    monkeypatch.setattr(Folder, "write_json", sometimes)
    mine = _Lock(folder)
    mine.acquire(False, silent)
    deadline = time.monotonic() + 20
    while Owner.read("", folder.read(mine.me.name)).beats < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(failures) == 2
    mine.release()
    assert files(folder) == []


@pytest.mark.usefixtures("quick")
def test_who_was_given_up_stops(folder: Folder) -> None:
    with held(folder):
        check(folder)
        folder.delete(files(folder)[0])  # as another does that takes over
        deadline = time.monotonic() + 20
        while not lock._held[folder.uri].lost:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(DistcorrError, match="taken over by another process"):
            check(folder)
    check(folder)


def test_the_ray_job_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "raysubmit_7"}}'
    )
    owner = Owner.me()
    assert owner.job == "raysubmit_7"
    assert "ray job stop raysubmit_7" in lock._busy(Folder("x"), owner).hint
