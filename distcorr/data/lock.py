"""One driver at a time works on a run folder.

Whoever wants the folder writes a file of its own into it, ``.lock-TOKEN.json``, and only then looks
who else is there. Of two that come at once the one with the smaller token stays and the other
withdraws; each looks after it has written, so they cannot both miss the other (the one-bit
algorithm of Burns and Lamport, 1993). No file has two writers, so neither rename nor conditional
writes are needed, and what a dead owner leaves can be deleted by anybody at any time.

What this rests on: that a listing shows what has been written, as on local disks and in today's
object stores. A network file system that shows listings of some seconds ago may let two in, and an
owner that was frozen for longer than ``DEAD`` learns at its next heartbeat that it was given up.
Shards are written whole and are the same bytes whoever makes them: both cost work, never results.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from distcorr.data.storage import Folder
from distcorr.errors import DistcorrError

BEAT = 15.0  # s between two heartbeats; not in the paper
DEAD = 120.0  # s without a new one after which an owner counts as dead; not in the paper
_LOOK = 0.5  # s between two looks at the folder; not in the paper
_WITHDRAW = 5.0  # s that another who came at the same time gets to withdraw; not in the paper
_PREFIX, _SUFFIX = ".lock-", ".json"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _ray_job() -> str:
    """The submission id of the Ray job that this process is the entry point of, or ""."""
    try:
        job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        return str(job.get("metadata", {}).get("job_submission_id", ""))
    except (ValueError, AttributeError):
        return ""


def _machine() -> str:
    """Where process ids mean the same: one boot and one namespace of processes.

    A host name would not do: containers may share it, and number their processes from 1.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()  # not Linux: no such namespaces


def _born(pid: int) -> str:
    """When a process began, in ticks since the boot: ids are used again. "" if it has ended."""
    try:
        # After the name in brackets, which may hold anything: state, then 18 others, then the time.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    except FileNotFoundError:
        return ""


def _lives(owner: Owner) -> bool:
    """Whether the process of an owner on this machine is still there."""
    if Path("/proc/self/stat").exists():
        return _born(owner.pid) == owner.born
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # of another user
    return True


@dataclass(frozen=True)
class Owner:
    """What the lock's file says.

    Attributes:
        token: drawn at random; names the file.
        host: for people.
        machine: where ``pid`` means something.
        pid: of the driver.
        born: when that process began, in ticks since the boot.
        job: submission id of its Ray job, or "".
        since: when the lock was taken, by the owner's clock.
        beats: heartbeats since then.
        last: when the last one was, by the owner's clock. For people: nobody computes with it.
    """

    token: str
    host: str = "unknown"
    machine: str = ""
    pid: int = 0
    born: str = ""
    job: str = ""
    since: str = "unknown"
    beats: int = 0
    last: str = "unknown"

    @classmethod
    def me(cls) -> Owner:
        """The process that runs here."""
        pid, now = os.getpid(), _now()
        host, machine = socket.gethostname(), _machine()
        return cls(secrets.token_hex(8), host, machine, pid, _born(pid), _ray_job(), now, 0, now)

    @classmethod
    def read(cls, token: str, content: bytes) -> Owner:
        """From the file; one that is not ours to understand is somebody all the same."""
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError):
            return cls(token)

    @property
    def name(self) -> str:
        """Of the file."""
        return f"{_PREFIX}{self.token}{_SUFFIX}"

    def __str__(self) -> str:
        job = f", Ray job {self.job}" if self.job else ""
        return f"{self.host} (process {self.pid}{job})"


@dataclass
class _Lock:
    """A driver's side of it: what it has seen of others, its own file and its heartbeat."""

    folder: Folder
    me: Owner = field(default_factory=Owner.me)
    lost: bool = False
    seen: dict[str, tuple[bytes, float, bool]] = field(default_factory=dict)
    over: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    made: list[Path] = field(default_factory=list)

    def acquire(self, wait: bool, say: Callable[[str], None]) -> None:
        if self.folder.is_local:
            path = Path(self.folder.uri)
            self.made = [each for each in (path, *path.parents) if not each.exists()]
        try:
            self._acquire(wait, say)
        except BaseException:  # Ctrl-C too
            self.release()
            raise
        self.thread = threading.Thread(target=self._beat, name="distcorr-lock", daemon=True)
        self.thread.start()

    def _acquire(self, wait: bool, say: Callable[[str], None]) -> None:
        claimed, until, told = False, 0.0, ""
        while True:
            others = self._others()
            if not others and claimed:
                return
            if not others:
                self._write()
                claimed, until = True, time.monotonic() + _WITHDRAW
                continue
            first = min(others, key=lambda owner: owner.token)
            if claimed and first.token > self.me.token and time.monotonic() < until:
                time.sleep(_LOOK / 10)  # it came at the same time, and will withdraw
                continue
            if claimed:
                self.folder.delete(self.me.name)
                claimed = False
            for owner, alive in others.items():
                if alive and not wait:
                    raise _busy(self.folder, owner)
            if told != first.token:
                told = first.token
                how = "" if others[first] else " (if it gives no sign of life, two minutes)"
                say(f"waiting for {first}, which has held {self.folder} since {first.since}{how}")
            time.sleep(_LOOK)

    def _others(self) -> dict[Owner, bool]:
        """Other owners, and whether each is known to live; the files of the dead are deleted."""
        found: dict[Owner, bool] = {}
        for name in self.folder.sizes():
            token = name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
            if name != f"{_PREFIX}{token}{_SUFFIX}" or token == self.me.token:
                continue
            try:
                content = self.folder.read(name)
            except OSError:  # by a storage under load, other than FileNotFoundError too
                if self.folder.exists(name):
                    raise
                continue  # it has just been given up
            owner = replace(Owner.read(token, content), token=token)
            # Clocks of two machines differ: what counts is that the file changes while we look.
            before, when, alive = self.seen.get(token, (content, time.monotonic(), False))
            if before != content:
                when, alive = time.monotonic(), True
            self.seen[token] = content, when, alive
            here = owner.machine == self.me.machine
            if not _lives(owner) if here else time.monotonic() - when > DEAD:
                self.folder.delete(name)
            else:
                found[owner] = here or alive
        return found

    def _write(self) -> None:
        self.folder.write_json(self.me.name, asdict(self.me))

    def _beat(self) -> None:
        while not self.over.wait(BEAT):
            try:
                if not self.folder.exists(self.me.name):
                    self.lost = True
                    return
                self.me = replace(self.me, beats=self.me.beats + 1, last=_now())
                self._write()
            except (DistcorrError, OSError):
                continue  # the storage does not answer; it may at the next beat

    def release(self) -> None:
        self.over.set()
        if self.thread:
            self.thread.join(_WITHDRAW)  # else it might write the file once more
        # Storage that fails just now must not hide how the work ended: the lock dies by itself.
        with contextlib.suppress(DistcorrError, OSError):
            self.folder.delete(self.me.name)
        for path in self.made:  # nothing was written: no empty folder is left
            try:
                path.rmdir()
            except OSError:
                return


def _busy(folder: Folder, owner: Owner) -> DistcorrError:
    stop = f"ray job stop {owner.job}" if owner.job else f"kill {owner.pid} on {owner.host}"
    return DistcorrError(
        f"{folder} is in use by {owner} since {owner.since}; its last heartbeat was at "
        f"{owner.last}, by its clock.",
        f"--wait waits until it is free; or end the other ({stop}). distcorr status shows how far "
        f"it is. A dead owner's lock goes by itself, {DEAD:g} s after its last heartbeat",
    )


_held: dict[str, _Lock] = {}  # of this process


@contextlib.contextmanager
def held(
    folder: Folder, wait: bool = False, say: Callable[[str], None] = lambda _: None
) -> Iterator[None]:
    """Hold a folder alone, and let it go however the work ends; may be nested in one process.

    Args:
        folder: of a run; made if it is not there, and removed again if it stays empty.
        wait: for another driver to let it go, in place of an error.
        say: takes a line for people while this waits.

    Raises:
        DistcorrError: another driver holds it and gives signs of life; or it cannot be written.
    """
    if folder.uri in _held:
        check(folder)
        yield
        return
    lock = _Lock(folder)
    lock.acquire(wait, say)
    _held[folder.uri] = lock
    try:
        yield
    finally:
        del _held[folder.uri]
        lock.release()


def check(folder: Folder) -> None:
    """Stop where another driver has taken the folder over.

    Raises:
        DistcorrError: this process was frozen or cut off for so long that it was given up.
    """
    if folder.uri in _held and _held[folder.uri].lost:
        raise DistcorrError(
            f"{folder} was taken over by another process: this one gave no heartbeat for "
            f"{DEAD:g} s.",
            "what is done stays; distcorr status shows how far the other is",
        )
