"""The gRPC edge: the only place that knows gRPC, protobuf and asyncio.

* ``bridge``: how trio and asyncio share a process.
* ``methods``: the table of RPCs. ``errors``: the one table of errors and statuses.
* ``codec``: the journal's messages as protobuf, both ways.
* ``server``: what a node serves. ``peers``: the transport between nodes.
* ``connection``: the client's side.
* ``program``: a whole node as a program.
"""
