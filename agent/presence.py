"""Keeps a container instance registered, and alive by a lease.

A lost lease changes nothing for the tasks: the agent takes a new one and is alive again.
What an operator decided (DRAINING) stays as it is through restarts of the agent; a
deregistered instance does not come back.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import trio
from structlog.typing import FilteringBoundLogger

from agent.folder import AgentFolder
from cluster import keys, offers
from cluster.codec import RecordInvalid
from cluster.records import Alive, ContainerInstance, InstanceStatus
from journal.client import Journal, Lease, OfferRejected
from journal.errors import JournalError, WrongCluster
from journal.offers import Reason
from journal.types import Revision

BACKOFF_S_MIN = 0.2
BACKOFF_S_MAX = 5.0


class AgentError(Exception):
    """The agent cannot go on, and the text says why. Tasks go on running."""


class StaleState(AgentError):
    """The journal stands before what this agent has acted on."""


class TakenOver(AgentError):
    """Another agent lives under this one's name."""


class Deregistered(AgentError):
    """The container instance was deregistered, or the journal does not know it."""


class ResourcesTaken(AgentError):
    """The agent was given less than its tasks hold."""


class Presence:
    """The registration and the lease of one instance."""

    def __init__(
        self,
        journal: Journal,
        folder: AgentFolder,
        registration: ContainerInstance,
        *,
        incarnation: str,
        wall: Callable[[], float],
        rng: random.Random,
        log: FilteringBoundLogger,
        ttl_s: float,
    ) -> None:
        self.connected_at: Revision | None = None
        """The revision of this agent's latest sign of life; None before the first."""
        self._journal = journal
        self._folder = folder
        self._cluster, self._instance = folder.identity.cluster, folder.identity.instance
        self._wanted = registration
        self._alive = Alive(incarnation=incarnation)
        self._wall = wall
        self._rng = rng
        self._log = log
        self._ttl_s = ttl_s

    def is_rival(self, alive: Alive, revision: Revision) -> bool:
        """Say whether a sign of life is of another agent that came after this one."""
        return (
            self.connected_at is not None
            and revision > self.connected_at
            and alive.incarnation != self._alive.incarnation
        )

    async def run(self) -> None:
        """Stay registered and alive until cancelled. Raises ``AgentError``."""
        backoff = BACKOFF_S_MIN
        while True:
            try:
                registration = await self._register()
                async with self._journal.lease(self._ttl_s, cancel_on_loss=False) as lease:
                    await self._connect(lease, registration)
                    backoff = BACKOFF_S_MIN
                    await lease.lost.wait()
                self._log.warning("lease.lost", lease=lease.id)
            except WrongCluster as error:
                raise AgentError(str(error)) from error
            except OfferRejected as rejected:
                self._log.info("registration.conflict", reason=str(rejected))
            except JournalError as error:
                self._log.warning("registration.delayed", reason=str(error))
            await trio.sleep(backoff * self._rng.uniform(0.5, 1.0))
            backoff = min(backoff * 2, BACKOFF_S_MAX)

    async def _register(self) -> Revision:
        """Register, or bring the registration up to date; return the revision of its record."""
        if not self._folder.identity.journal:
            status = await self._journal.status()
            self._folder.update(journal=status.cluster)
        key = keys.instance(self._cluster, self._instance)
        record = await self._journal.get(key)
        if record is None or record.value is None:
            return await self._register_new()
        try:
            present = ContainerInstance.unpack(record.value)
        except RecordInvalid as error:
            raise AgentError(
                f"the registration of container instance {self._instance} is broken: {error}"
            ) from error
        if present.status is InstanceStatus.INACTIVE:
            raise Deregistered(
                f"container instance {self._instance} was deregistered; its folder {self._folder.path} is"
                " of no more use: start the agent on a new one"
            )
        self._folder.update(registered=True)
        wanted = replace(
            present,
            registered_resources=self._wanted.registered_resources,
            attributes=self._wanted.attributes,
            version_info=self._wanted.version_info,
            host=self._wanted.host,
            folder=self._wanted.folder,
        )
        if wanted == present:
            return record.mod
        try:
            return await self._journal.offer(
                offers.change_instance(self._cluster, self._instance, present, wanted, record.mod)
            )
        except OfferRejected as rejected:
            if rejected.receipt.reason not in (Reason.BOUNDS, Reason.SET):
                raise
            raise ResourcesTaken(
                f"container instance {self._instance} was registered with {present.cpu} CPU units and"
                f" {present.memory} MiB, and its tasks hold more than {wanted.cpu} CPU units and"
                f" {wanted.memory} MiB leave (or another resource, or a port that is now reserved):"
                " stop tasks first, or start the agent with as much as before"
            ) from rejected

    async def _register_new(self) -> Revision:
        if self._folder.identity.registered:
            raise Deregistered(
                f"the journal does not know container instance {self._instance} any more; its folder"
                f" {self._folder.path} is of no more use: start the agent on a new one"
            )
        try:
            await self._journal.offer(offers.create_cluster(self._cluster))
        except OfferRejected:
            pass  # it exists
        record = replace(self._wanted, registered_at=self._wall())
        revision = await self._journal.offer(offers.register_instance(self._cluster, self._instance, record))
        self._folder.update(registered=True)
        self._log.info("instance.registered", cluster=self._cluster, cpu=record.cpu, memory=record.memory)
        return revision

    async def _connect(self, lease: Lease, registration: Revision) -> None:
        alive = replace(self._alive, connected_at=self._wall())
        revision = await self._journal.offer(
            offers.connect(
                self._cluster,
                self._instance,
                alive,
                lease=lease.id,
                ttl_ms=round(self._ttl_s * 1000),
                registration=registration,
                at=registration,
                grant=False,
            )
        )
        self.connected_at = revision
        self._log.info("agent.connected", lease=lease.id, revision=revision)
