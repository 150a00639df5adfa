"""Run a toy job on a cluster of three nodes, kill one in the middle of a stage, add another.

python -m tests.stages.lose_a_node FOLDER STAGE SETTING...
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from ray.cluster_utils import Cluster

from tests.stages.common import progress_of, run_all


def main(folder: Path, stage: str, settings: list[str]) -> None:
    small = {"object_store_memory": 100_000_000}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, **small},
    )
    nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
    cluster.wait_for_nodes()
    killed = threading.Event()

    def kill() -> None:
        while len(progress_of(folder, stage)) < 2:
            time.sleep(0.01)
        if not list(folder.glob(f"{stage}/*/_done.json")):
            cluster.remove_node(nodes[1], allow_graceful=False)
            killed.set()
            cluster.add_node(num_cpus=1, **small)

    watcher = threading.Thread(target=kill, daemon=True)
    watcher.start()
    run_all(folder, [*settings, f"compute.address={cluster.address}"])
    watcher.join(timeout=60)
    cluster.shutdown()
    assert killed.is_set(), "the stage ended before its node was killed"


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
