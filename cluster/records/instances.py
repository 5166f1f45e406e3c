"""Container instances: what the agent registers, what operators set, what is left. PURE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from cluster.codec import Record, RecordInvalid, empty_map
from cluster.records.common import RESOURCE_FIELD, Attribute, InstanceStatus, Resource, Tag

NOT_NAMED = frozenset({"CPU", "MEMORY", "PORTS", "PORTS_UDP"})
"""Resources that have fields of their own in a capacity record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionInfo(Record):
    agent_version: str = ""
    agent_hash: str = ""
    docker_version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerInstance(Record):
    """The registration of an agent. ``status`` belongs to operators, the rest to the agent."""

    status: InstanceStatus = InstanceStatus.ACTIVE
    status_reason: str = ""
    registered_resources: tuple[Resource, ...]
    attributes: tuple[Attribute, ...] = ()
    version_info: VersionInfo | None = None
    ec2_instance_id: str = ""
    """The machine's id, where it has one; any name on hosts of one's own."""
    registered_at: float = 0.0
    host: str = ""
    """The machine's name, for people and for ``synod logs``."""
    folder: str = ""
    """The agent's folder on that machine."""

    def resource(self, name: str) -> int:
        """Return an integer resource, 0 where it is not registered."""
        for resource in self.registered_resources:
            if resource.name == name and resource.integer_value is not None:
                return resource.integer_value
        return 0

    @property
    def cpu(self) -> int:
        return self.resource("CPU")

    @property
    def memory(self) -> int:
        return self.resource("MEMORY")

    @property
    def ports(self) -> tuple[int, ...]:
        """Return the TCP ports that the machine keeps for itself."""
        return self._reserved("PORTS")

    @property
    def ports_udp(self) -> tuple[int, ...]:
        return self._reserved("PORTS_UDP")

    @property
    def named(self) -> dict[str, int]:
        """Return the further integer resources, by name."""
        return {
            resource.name: resource.integer_value
            for resource in self.registered_resources
            if resource.name not in NOT_NAMED and resource.integer_value is not None
        }

    def capacity(self) -> Capacity:
        """Return what there is to claim while nothing is claimed."""
        return Capacity(
            cpu=self.cpu,
            memory=self.memory,
            ports=self.ports,
            ports_udp=self.ports_udp,
            resources=self.named,
        )

    def attribute(self, name: str) -> str | None:
        """Return an attribute's value, "" where it has none, None where it does not exist."""
        for attribute in self.attributes:
            if attribute.name == name:
                return attribute.value or ""
        return None

    def problem(self) -> str | None:
        names = [resource.name for resource in self.registered_resources]
        if len(set(names)) != len(names):
            return "registeredResources names a resource twice"
        for resource in self.registered_resources:
            if resource.integer_value is not None and resource.integer_value < 0:
                return f"resource {resource.name} is negative"
        for name in ("PORTS", "PORTS_UDP"):
            try:
                ports = self._reserved(name)
            except ValueError:
                return f"{name} holds what is no port"
            if any(not 0 < port < 65536 for port in ports):
                return f"{name} holds a port outside 1 to 65535"
        return None

    def _reserved(self, name: str) -> tuple[int, ...]:
        for resource in self.registered_resources:
            if resource.name == name:
                return tuple(sorted({int(port) for port in resource.string_set_value or ()}))
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSettings(Record):
    """What operators say of an instance: attributes over the agent's own, and tags."""

    attributes: tuple[Attribute, ...] = ()
    tags: tuple[Tag, ...] = ()

    def problem(self) -> str | None:
        names = [attribute.name for attribute in self.attributes]
        return "attributes names one twice" if len(set(names)) != len(names) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity(Record):
    """What is left to claim on an instance, and which host ports are taken.

    ``adjust`` works on the fields of the map itself: so a further resource ``GPU`` is its field
    ``resource:GPU``.
    """

    cpu: int
    memory: int
    ports: tuple[int, ...] = ()
    ports_udp: tuple[int, ...] = ()
    resources: Mapping[str, int] = empty_map()

    def to_map(self) -> dict[str, Any]:
        packed = Record.to_map(self)
        packed.pop("resources", None)
        packed.update((RESOURCE_FIELD + name, self.resources[name]) for name in sorted(self.resources))
        return packed

    @classmethod
    def from_map(cls, value: object, where: str = "") -> Self:
        if not isinstance(value, dict):
            raise RecordInvalid(where, f"a map is wanted, not {type(value).__name__}")
        plain: dict[Any, Any] = {}
        named: dict[str, Any] = {}
        for key in value:
            if isinstance(key, str) and key.startswith(RESOURCE_FIELD):
                named[key.removeprefix(RESOURCE_FIELD)] = value[key]
            else:
                plain[key] = value[key]
        if named:
            plain["resources"] = named
        return super(Capacity, cls).from_map(plain, where)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive(Record):
    """An agent is connected. Bound to its lease, so it goes when the agent does."""

    incarnation: str
    """Drawn anew by each agent process: a second one for the same instance is noticed."""
    connected_at: float = 0.0
