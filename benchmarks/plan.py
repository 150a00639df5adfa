"""How well ``distcorr plan`` predicts a run of all photographs from a run of a part of them.

    .venv/bin/python benchmarks/plan.py DATA WEIGHTS [CATEGORIES [FOLDER]]

Runs all stages on CATEGORIES ("cow,horse") of DATA, predicts from that run's logs what all of DATA
will take on this machine, runs it, and prints for each stage the prediction beside the time. The
aim is 25 % of the time of all stages together. Takes a quarter of an hour on two cores and eight
categories; run it alone on the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

STAGES = ("build-db", "neighbors", "transfer", "classify", "responses", "detect", "visualize")


def distcorr(*arguments: str) -> Any:
    """The command's answer as JSON."""
    command = [sys.executable, "-m", "distcorr", *arguments, "--json"]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def run(folder: str, data: str, weights: str, *more: str) -> dict[str, float]:
    """Stage -> s of its command, the start of Python left out; each stage is a command."""
    took = {}
    for stage in STAGES:
        given = ("-p", "paper", "--data", data, "--weights", weights, *more)
        began = time.perf_counter()
        (summary,) = distcorr(stage, "-r", folder, *given, "--quiet")
        took[stage] = summary["seconds"]
        wall = time.perf_counter() - began
        print(f"{stage:<10} {took[stage]:7.1f} s, {wall:.1f} with its start", flush=True)
    return took


def main(data: str, weights: str, categories: str, folder: str) -> None:
    """Run the part, predict, run all, compare."""
    part, whole = f"{folder}/part", f"{folder}/whole"
    named = [word for name in categories.split(",") for word in ("-c", name)]
    print(f"{categories}:")
    run(part, data, weights, *named)
    given = ("--from", part, "--data", data, "--cpus", str(os.cpu_count() or 1))
    plan = distcorr("plan", *given, "--set", "dataset.categories=[]")
    print("all:")
    took = run(whole, data, weights)
    print("\nstage       predicted  measured        off  rates")
    for stage in plan["stages"]:
        measured = took[stage["stage"]]
        off = 100 * (stage["wall"] / measured - 1)
        print(
            f"{stage['stage']:<10} {stage['wall']:9.1f} s {measured:7.1f} s {off:+8.1f} %"
            f"  {stage['basis']}"
        )
    total = sum(took.values())
    off = 100 * (plan["wall"] / total - 1)
    print(f"together   {plan['wall']:9.1f} s {total:7.1f} s {off:+8.1f} %")


if __name__ == "__main__":
    chosen = sys.argv[3] if len(sys.argv) > 3 else "cow,horse"
    if len(sys.argv) > 4:
        main(sys.argv[1], sys.argv[2], chosen, sys.argv[4])
    else:
        with tempfile.TemporaryDirectory() as place:
            main(sys.argv[1], sys.argv[2], chosen, place)
