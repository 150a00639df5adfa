"""The checks of a machine on every node of a Ray cluster, and whether the nodes are alike."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from distcorr.data.storage import Folder
from distcorr.data.voc_files import find_layout
from distcorr.errors import DistcorrError
from distcorr.stages.cluster import describe
from distcorr.stages.machine import FAIL, MACHINE, OK, WARN, Check, facts

_SECONDS = 120.0  # for all nodes together; a worker imports torch first
_SKEW = 2.0  # s between clocks
_ESSENTIAL = ("distcorr", "Python", "ray")  # with which nothing works where they differ


class Node(NamedTuple):
    """What a node found about itself."""

    facts: dict[str, str]
    checks: list[Check]
    clock: float


def look_around(data: str, run: str) -> Node:
    """On a node: its checks, and whether it can see what a worker has to open."""
    checks = []
    for name, check in MACHINE.items():
        try:
            checks.append(check())
        except Exception as error:  # the others are made all the same
            checks.append(Check(name, FAIL, describe(error)))
    for name, uri, look in (("data", data, _see), ("run folder", run, _write)):
        if uri:
            try:
                look(uri)
                checks.append(Check(name, OK, f"{Folder(uri)} can be used"))
            except DistcorrError as error:
                fix = "give a path on shared storage, or a URI"
                checks.append(Check(name, FAIL, error.message, fix))
    return Node(facts(), checks, time.time())


def _see(uri: str) -> None:
    find_layout(Folder(uri))


def _write(uri: str) -> None:
    name = f".doctor-{uuid.uuid4().hex[:8]}"
    Folder(uri).write(name, b"")
    Folder(uri).delete(name)


def check_nodes(data: str = "", run: str = "") -> list[Check]:
    """Every living node of the Ray that this process has joined.

    Args:
        data: folder or URI that each must see; "" for none.
        run: likewise, and write to.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    names = {}
    for node in ray.nodes():
        if node["Alive"]:
            at = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            # Without a CPU: a head that runs no work, and nodes that are busy, are asked too.
            options: dict[str, Any] = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": at}
            task = ray.remote(**options)(look_around)
            names[task.remote(data, run)] = f"{node['NodeManagerAddress']} {node['NodeID'][:6]}"
    began = time.time()
    ready, _ = ray.wait(list(names), num_returns=len(names), timeout=_SECONDS)
    found: dict[str, Node] = {}
    checks = []
    for reference, name in names.items():
        if reference not in ready:
            ray.cancel(reference, force=True)
            checks.append(_silent(name, f"no answer within {_SECONDS:g} s"))
            continue
        try:
            found[name] = ray.get(reference)
        except ray.exceptions.RayError as error:
            checks.append(_silent(name, str(error).strip().splitlines()[-1]))
    for name, node in found.items():
        checks += [check._replace(node=name) for check in node.checks]
        if not began - _SKEW <= node.clock <= time.time() + _SKEW:
            apart = node.clock - time.time()
            fix = "set the clocks: timedatectl set-ntp true"
            checks.append(Check("clock", WARN, f"{apart:+.0f} s apart from ours", fix, name))
    return checks + alike({name: node.facts for name, node in found.items()})


def _silent(name: str, why: str) -> Check:
    fix = "distcorr and its dependencies must be installed there: the image, or a working folder"
    return Check("node", FAIL, why, fix, name)


def alike(facts_of: Mapping[str, Mapping[str, str]]) -> list[Check]:
    """Where nodes differ in what results or the work itself depend on.

    Args:
        facts_of: node -> what it is and has.
    """
    found = []
    every = sorted({key for of_node in facts_of.values() for key in of_node})
    for key in every:
        values: dict[str, list[str]] = {}
        for node, of_node in facts_of.items():
            values.setdefault(of_node.get(key, "none"), []).append(node)
        if len(values) > 1:
            shown = "; ".join(f"{value} on {', '.join(on)}" for value, on in values.items())
            level = FAIL if key in _ESSENTIAL else WARN
            detail = f"{key} differs between nodes: {shown}"
            if key == "processor":
                fix = "none needed; bytes may differ in their last bits between them"
            else:
                fix = "use one image on all nodes"
            found.append(Check("nodes", level, detail, fix))
    if not found and facts_of:
        count = len(facts_of)
        found.append(Check("nodes", OK, f"{count} nodes, alike in versions and processor"))
    return found
