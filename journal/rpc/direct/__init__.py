"""The direct port: past gRPC's own server, with what nodes and clients say most often.

gRPC for Python spends 150 to 180 µs of processor time on a call beside what the call is about, and about 100
on a message of a stream at each end (docs/performance.md). Two of HTTP/2's frames are little: so this package
speaks it itself, in the loop of who uses it. gRPC's clients in any language may make calls here that take one
request; peers' parcels (``rpc.outgoing``) and our own client's offers and reads come here by themselves, when
they have learned by gRPC where it is and whose. Everything else stays with gRPC's server.

* ``frames``: frames, settings and error codes, as bytes. No I/O.
* ``end``: what both ends of a connection do with frames. No I/O.
* ``caller``: the end that calls. No I/O. ``dial`` puts it on a socket in asyncio's loop, for peers, and
  ``socket`` on one of trio's, for ``client``: the direct port as a client's connection uses it.
* ``connection``: the end that is called: flow control, calls in, replies out.
* ``listener``: the port, what all its connections may take together, and which handler serves which call.
"""
