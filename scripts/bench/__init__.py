"""``make bench``: Synod and etcd side by side, in the same run, on the same machine.

* ``__main__``: the command line; ``rows``: what is measured, a function a row; ``results``: medians, goals.
* ``machine``: what the machine itself needs for a synced append and a gRPC echo.
* ``etcd``: three etcd nodes; ``h2load`` drives them, and what of ours any gRPC client may call.
* ``loads``: what our own clients do; ``failover``: writers while the leader is killed.
* ``tails``: how soon commits are with thousands of readers; ``streams`` and ``h2`` are those readers.
* ``growth``, ``restart``: what a long history costs; ``fill`` makes it.
* ``placement``: four processes of ``scheduler`` on simulated instances.
* ``api``: calls of the ECS API at two sizes, beside ``moto``'s server.
* ``report``: the table, the JSON and the picture.

* ``check``: ``make bench-check``, which counts instead of timing.

A number means nothing without the machine it was measured on, and this one may be noisy: so each row is
a ratio to a peer measured in alternating rounds of the same run.
"""

import journal.rpc  # noqa: F401  # before grpc: it says how gRPC's core is to do its I/O
