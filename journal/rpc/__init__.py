"""The gRPC edge: the only place that knows gRPC, protobuf and asyncio.

* ``core_settings``: what gRPC's core reads when it starts.
* ``bridge``: how trio and asyncio share a process.
* ``methods``: the table of RPCs. ``errors``: the one table of errors and statuses.
* ``codec``: the journal's messages as protobuf, both ways.
* ``server``: what a node serves. ``peers``: the transport between nodes.
* ``connection``: the client's side.
* ``program``: a whole node as a program.
"""

from journal.rpc import core_settings

core_settings.apply()  # before anything imports grpc
