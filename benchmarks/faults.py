"""What a fault costs: every fault of tests/stages/fault_matrix.py, with its time, as a table.

python benchmarks/faults.py [FAULT...]; alone on the machine, where network namespaces are allowed.

A stage of toy size runs undisturbed on the same cluster first, twice: the first time its workers
import what they need. What a faulty run takes longer, second commands included, is its time to
recover; it says what distcorr and Ray do, not what the shards that are lost would cost.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for what the tests share

from tests.stages import fault_cluster, fault_site, namespace  # noqa: E402
from tests.stages.fault_matrix import ROWS  # noqa: E402


def main(base: Path, wanted: list[str]) -> int:
    """Print the table; the number of rows in which something did not hold."""
    fault_site.undisturbed(base / "undisturbed")
    rows = [row for row in ROWS if row[0] != "nothing" and (not wanted or row[0] in wanted)]
    usual: dict[str, float] = {}
    failed = 0
    print("| fault | stage | when | retries | time to recover | equal bytes |")
    print("|---|---|---|---|---|---|", flush=True)
    with fault_cluster.cluster(base / "undisturbed", base) as client:
        for fault, stage in rows:
            if stage not in usual:
                twice = [client.suffer("nothing", stage)["seconds"] for _ in range(2)]
                usual[stage] = twice[1]
            try:
                row = client.suffer(fault, stage)
            except AssertionError as error:
                failed += 1
                print(f"| {fault} | {stage} | FAILED: {str(error).splitlines()[-1]} | | | |")
                continue
            more = row["seconds"] - usual[stage]
            print(
                f"| {fault} | {stage} | {row['when']} | {row['retries']} | {more:.1f} s | "
                f"{row['equal']} |",
                flush=True,
            )
    print("undisturbed: " + ", ".join(f"{stage} {s:.1f} s" for stage, s in usual.items()))
    return failed


if __name__ == "__main__":
    if why := namespace.denied():
        sys.exit(why)
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(main(Path(folder), sys.argv[1:]))
