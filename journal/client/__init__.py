"""The client of the journal. ``connect`` opens one; everything else hangs on what it returns.

Where to look:

* ``journal``: ``connect`` and ``Journal``, the face.
* ``submitter``: offers, coalesced, resubmitted by id, answered exactly once.
* ``router``: which node to ask, when to try again, and the highest revision seen.
* ``gather``: concurrent gets travel in one call.
* ``reads``, ``tails``, ``leases``, ``transactions``: what their names say.
* ``run``: ``trio.run`` with gRPC in the same thread.
* ``config``, ``errors``: settings and what a client raises beyond ``journal.errors``.

Nothing here imports grpc: nodes are reached through ``journal.connection``.
"""

import logging

from journal.client.config import ClientConfig
from journal.client.errors import LeaseLost, OfferId, OfferRejected, OffersUnresolved, OfferUnknown
from journal.client.journal import Journal, connect
from journal.client.leases import Lease
from journal.client.router import Counters
from journal.client.run import run
from journal.client.tails import SnapshotPage, Tail
from journal.client.transactions import Transaction
from journal.connection import LINEARIZABLE, LOCAL, Consistency, TailMessage, at_least
from journal.errors import JournalError, Overloaded, Unavailable

logging.getLogger("journal.client").addHandler(logging.NullHandler())  # a library is quiet by itself

__all__ = [
    "LINEARIZABLE",
    "LOCAL",
    "ClientConfig",
    "Consistency",
    "Counters",
    "Journal",
    "JournalError",
    "Lease",
    "LeaseLost",
    "OfferId",
    "OfferRejected",
    "OfferUnknown",
    "OffersUnresolved",
    "Overloaded",
    "SnapshotPage",
    "Tail",
    "TailMessage",
    "Transaction",
    "Unavailable",
    "at_least",
    "connect",
    "run",
]
