"""Whether a Ray cluster has a node for one task, and what to say while it has none."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from distcorr.errors import DistcorrError

_SAY = 10.0  # s after which a line says what is waited for; not in the paper
_UNITS = {"CPU": "CPU", "GPU": "GPU", "memory": "GB of memory"}

Need = Mapping[str, float]  # "CPU", "GPU", "memory" in bytes -> how much one task takes


class Room:
    """Where tasks of one need find room; asked again and again while they run."""

    def __init__(self, need: Need, patience: float, warn: Callable[[str], None]) -> None:
        """
        Args:
            need: of one task; entries of 0 do not count.
            patience: s that nodes get to join; 0 for a Ray of our own, which none joins.
            warn: takes a line for people.
        """
        self.need = {name: much for name, much in need.items() if much}
        self._patience, self._warn = patience, warn
        self._nodes: list[Need] = []
        self._since = time.monotonic()
        self._warned = False

    def options(self) -> dict[str, Any]:
        """What Ray is told of such a task or actor."""
        names = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}
        return {names[name]: much for name, much in self.need.items()}

    def places(self) -> int:
        """How many such tasks the nodes of now can work on at once; at least 1."""
        return max(1, sum(places(node, self.need) for node in nodes()))

    def check(self) -> None:
        """Warn where no node has room for one task, and give up when none comes.

        Raises:
            DistcorrError: none can come, or none came and nothing else changed for ``patience``.
        """
        now, found = time.monotonic(), nodes()
        there = any(places(node, self.need) for node in found)
        if there or found != self._nodes:  # somebody came or went: more may come
            self._nodes, self._since = found, now
        if there:
            self._warned = False
            return
        if not self._patience or now - self._since > self._patience:
            raise DistcorrError(
                f"No node of this Ray has {_words(self.need)}, which one task needs; "
                f"it has {_listed(found)}.",
                "ask for less (--set compute.gpus_per_worker=0 works without GPUs), or start such "
                "a node and run the same command again",
            )
        if now - self._since > _SAY and not self._warned:
            self._warned = True
            self._warn(
                f"waiting for a node with {_words(self.need)}; the cluster has {_listed(found)}. "
                f"Giving up when nothing changes for {self._patience:g} s"
            )

    def wait(self) -> None:
        """Come back when there is room for one task; asks for it, so that a cluster can grow.

        Raises:
            DistcorrError: as ``check``.
        """
        if any(places(node, self.need) for node in nodes()):
            return
        import ray

        self.check()
        scout = ray.remote(**self.options())(_nothing).remote()
        try:
            while not ray.wait([scout], timeout=1)[0]:
                self.check()
        except BaseException:
            # Only while it waits: to cancel what may end at the same moment crashes Ray 2.60.
            ray.cancel(scout)
            raise


def _nothing() -> None:
    """The work of a task that only asks for room."""


def nodes() -> list[Need]:
    """What each living node has in all, busy or not, in an order that stays."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    return [dict(n["Resources"]) for n in sorted(alive, key=lambda n: str(n["NodeID"]))]


def places(node: Need, need: Need) -> int:
    """How many tasks a node can work on at once."""
    return int(min(node.get(name, 0) / much for name, much in need.items()))


def affordable(memory: float, need: Need, warn: Callable[[str], None]) -> float:
    """``memory`` bytes, or what the largest of the nodes that could do the rest of the task has.

    A task that asks Ray for more than any node has would wait for ever.
    """
    largest = max((n.get("memory", 0.0) for n in nodes() if places(n, need)), default=memory)
    if memory <= largest:
        return memory
    warn(
        f"one task may need {memory / 1e9:.1f} GB of memory, and the largest node gives Ray "
        f"{largest / 1e9:.1f} GB: it is tried there, alone, and may be killed"
    )
    return largest


def _words(need: Need) -> str:
    return " and ".join(
        f"{much / 1e9 if name == 'memory' else much:.3g} {_UNITS.get(name, name)}"
        for name, much in need.items()
    )


def _listed(found: list[Need]) -> str:
    """The nodes in words: "no node", "3 nodes of 8 CPU, 1 of 4 CPU and 1 GPU"."""
    kinds: dict[str, int] = {}
    for node in found:
        has = {name: node[name] for name in _UNITS if node.get(name)}
        kinds[_words(has) or "nothing"] = kinds.get(_words(has) or "nothing", 0) + 1
    return ", ".join(f"{count} of {kind}" for kind, count in kinds.items()) or "no node"
