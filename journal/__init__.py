"""The replicated transaction journal.

Nodes agree by Multi-Paxos on a history of offers; the history folds into a
versioned key space; clients offer transitions and learn what was committed by
tailing. Nothing here knows what a task or a container is.

Where to look:

* ``types``, ``errors``, ``limits``: the words and numbers that all modules share.
* ``offers``: what a client submits, and its packed form.
* ``paxos``: PURE. Agreement on the value of each slot.
* ``space``: PURE. The versioned keys, the check and the fold.
* ``storage``: durable records, in LevelDB or in memory.
* ``node``: the shell around all of the above; ``driver`` gives it its turns.
* ``tail``: the fan-out of commits.
* ``rpc``: the only place that knows gRPC, protobuf and asyncio.
* ``client``, ``replica``: what programs use.
"""
