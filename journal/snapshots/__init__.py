"""Snapshots: the space as records, sent to a node that is too far behind, or kept in a file.

A snapshot is every record of the space (``records.FAMILIES``) in key order, read from one view of a
node's storage. The view's state record says which slot it is of. Nothing of the acceptor is in it:
promises and acceptances are a node's own, and stay where they are.

* ``records``: which records, how they are packed, and what the whole must come to. PURE.
* ``serve``: the side that has one. PURE over the storage port, like the space.
* ``fetch``: the side that wants one, message by message. PURE.
* ``install``: how a fetched one takes the place of the space, crash or no crash. PURE.
* ``catchup``: the course of it all on a node. PURE; the node's loop does what it says.
* ``file``, ``restore``, ``verify``: the same records in a file, and offline work on folders.

``docs/snapshot-format.md`` has the bytes.
"""
