"""Whether a machine can do the work: a function per check, each said with what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.version import Version

import distcorr

OK, WARN, FAIL = "ok", "warn", "fail"
_PER_CORE = 1.5e9  # bytes that a worker may need with torch and a shard; not in the paper
_FILES = 4096  # open at once; Ray asks for 65536 on its head
_SHARED = 0.3  # of memory: Ray's own default for its object store
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class Check(NamedTuple):
    """What one check found.

    Attributes:
        name: of the check.
        level: "ok", "warn" (it works, but) or "fail" (it does not).
        detail: what was found, one line.
        fix: a command to paste or what to do; "" where nothing has to be done.
        node: of a cluster; "" for this machine.
    """

    name: str
    level: str
    detail: str
    fix: str = ""
    node: str = ""


def python() -> Check:
    """Python and distcorr, with the commit if it runs from a checkout."""
    commit = _commit(Path(distcorr.__file__).parents[1])
    version = f"Python {platform.python_version()}, distcorr {distcorr.__version__}"
    return Check("python", OK, version + (f" (git {commit})" if commit else ""))


def _commit(folder: Path) -> str:
    """Short hash of the checkout, "" for an installed package or without git."""
    if not (folder / ".git").exists():
        return ""
    command = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def libraries(required: list[str] | None = None) -> Check:
    """Whether every dependency is installed, in the range that distcorr asks for."""
    required = importlib.metadata.requires("distcorr") if required is None else required
    wrong, shown = [], []
    for requirement in map(Requirement, required or ()):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue  # of an extra
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append((requirement, "not installed"))
            continue
        shown.append(f"{requirement.name} {version}")
        if not requirement.specifier.contains(Version(version), prereleases=True):
            wrong.append((requirement, version))
    if wrong:
        found = ", ".join(f"{r.name}{r.specifier} is {what}" for r, what in wrong)
        names = " ".join(f"'{r.name}{r.specifier}'" for r, _ in wrong)
        return Check("libraries", FAIL, f"not as required: {found}", f"pip install {names}")
    return Check("libraries", OK, "  ".join(shown))


def gpu() -> Check:
    """Whether torch can use a GPU."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Check("gpu", OK, f"torch sees {', '.join(names)}")
    if shutil.which("nvidia-smi") and not torch.version.cuda:
        fix = "install torch for CUDA first, as pytorch.org/get-started/locally says"
        return Check("gpu", WARN, "there is a GPU driver, but this torch is for CPUs only", fix)
    return Check(
        "gpu", WARN, "torch sees no GPU: everything works on CPUs, build-db is slower",
        "none needed; for large runs use a machine with a GPU",
    )  # fmt: skip


def memory() -> Check:
    """Memory for each process that works at once."""
    total, cores = total_memory(), os.cpu_count() or 1
    each = total / cores
    detail = f"{total / 1e9:.1f} GB of memory for {cores} cores, {each / 1e9:.1f} GB each"
    if each >= _PER_CORE:
        return Check("memory", OK, detail)
    fewer = max(1, int(total / _PER_CORE))
    return Check("memory", WARN, f"{detail}: little", f"--set compute.workers={fewer}")


def total_memory() -> float:
    """Bytes of this machine, or of the container that limits it."""
    physical = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    try:
        return min(physical, float(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no cgroup, or "max"
        return physical


def shared_memory(folder: str = "/dev/shm") -> Check:
    """Room for Ray's object store."""
    if not os.path.isdir(folder):
        return Check("shared memory", OK, f"this system has no {folder}; Ray does without")
    free, wanted = shutil.disk_usage(folder).free, _SHARED * total_memory()
    detail = f"{free / 1e9:.1f} GB of shared memory free"
    if free >= wanted:
        return Check("shared memory", OK, detail)
    return Check(
        "shared memory", WARN, f"{detail}; Ray would like {wanted / 1e9:.1f} and uses the disk",
        f"in a container: docker run --shm-size={max(1, round(wanted / 1e9))}g",
    )  # fmt: skip


def open_files() -> Check:
    """How many files and sockets a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _FILES:
        return Check("open files", OK, f"up to {soft} open files")
    most = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    fix = f"ulimit -n {most}" if most >= _FILES else "ask the administrator for ulimit -n 65536"
    return Check("open files", WARN, f"only {soft} open files; Ray may need more", fix)


def threads(environment: Mapping[str, str] = os.environ) -> Check:
    """Variables that numerical libraries read when they start."""
    found = {name: environment[name] for name in _THREADS if name in environment}
    shown = ", ".join(f"{name}={value}" for name, value in found.items())
    wrong = [n for n, v in found.items() if not (v.isdigit() and 0 < int(v))]
    if wrong:
        return Check("threads", WARN, f"{shown}: no number of threads", f"unset {' '.join(wrong)}")
    return Check("threads", OK, f"{shown or 'no variable set'} (tasks limit themselves to 1)")


def numba_cache(environment: Mapping[str, str] = os.environ) -> Check:
    """Whether compiled functions can be kept, so that each process need not compile them."""
    import distcorr.algorithms

    beside = Path(str(distcorr.algorithms.__file__)).parent / "__pycache__"
    home = Path(environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME", "/")) / ".cache")
    chosen = environment.get("NUMBA_CACHE_DIR")
    places = [Path(chosen)] if chosen else [beside, home / "numba"]
    for place in places:
        if writable(place):
            return Check("numba cache", OK, f"compiled functions are kept in {place}")
    return Check(
        "numba cache", WARN, f"cannot write {' or '.join(map(str, places))}: compiled each time",
        "export NUMBA_CACHE_DIR=/tmp/numba",
    )  # fmt: skip


def writable(folder: Path) -> bool:
    """Whether a file can be made in a folder, or the folder itself where it is not there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


MACHINE: dict[str, Callable[[], Check]] = {
    "python": python,
    "libraries": libraries,
    "gpu": gpu,
    "memory": memory,
    "shared memory": shared_memory,
    "open files": open_files,
    "threads": threads,
    "numba cache": numba_cache,
}


def facts() -> dict[str, str]:
    """What should be the same on every node, or else its bytes may differ."""
    names = ("numpy", "scipy", "torch", "faiss-cpu", "numba", "pyarrow", "ray")
    versions = {name: importlib.metadata.version(name) for name in names}
    return {
        "distcorr": distcorr.__version__,
        "Python": platform.python_version(),
        **versions,
        "processor": _processor(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
