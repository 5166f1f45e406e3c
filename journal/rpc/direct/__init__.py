"""The direct port: what a node serves to plain gRPC clients that send one call for each request.

gRPC's own server for Python spends 150 to 180 µs of processor time on a call beside what the call is about
(docs/performance.md). A unary call is little of HTTP/2: two frames in, three out. So this package speaks it
itself, to gRPC clients of any language, on a port of its own; streams stay with gRPC's server.

* ``frames``: frames, settings and error codes, as bytes. No I/O.
* ``connection``: one client's connection: flow control, calls in, replies out.
* ``listener``: the port, what all its connections may take together, and which handler serves which call.
"""
