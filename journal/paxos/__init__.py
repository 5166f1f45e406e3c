"""Agreement on the value of each slot: Multi-Paxos without I/O, time or threads. PURE.

A shell (``journal.node``, or a test's harness) feeds ``Paxos`` with messages and time and
carries out its ``Effects`` in the order that ``effects.py`` demands. Start reading at
``core.py``; ``docs/protocol.md`` has the glossary and the table of messages.
"""

from __future__ import annotations

from journal.paxos.config import PaxosConfig, PeerProgress, Recovered, Role
from journal.paxos.core import Paxos
from journal.paxos.effects import Effects
from journal.paxos.membership import Member, Membership, MembershipHistory

__all__ = [
    "Effects",
    "Member",
    "Membership",
    "MembershipHistory",
    "Paxos",
    "PaxosConfig",
    "PeerProgress",
    "Recovered",
    "Role",
]
