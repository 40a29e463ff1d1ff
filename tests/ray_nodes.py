"""A Ray cluster on this machine: a head that runs no tasks, and as many nodes of one core as are asked for.

`python ray_nodes.py NUMBER` prints the head's address; a line on its stdin kills the node that was added last; the end
of its stdin ends the cluster. In a process of its own, since Ray leaves threads and warnings behind.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

STORE_BYTES = 80_000_000  # of a node's object store, the least there can be


def main() -> None:
    """Keep a cluster while stdin is open."""
    arguments = {"include_dashboard": False, "num_cpus": 0, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES) for _ in range(int(sys.argv[1]))]
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    try:
        for _ in sys.stdin:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            print("killed", flush=True)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
