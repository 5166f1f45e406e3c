"""Clusters, task definitions, tokens of requests, account settings. PURE."""

from __future__ import annotations

from dataclasses import replace

from cluster import keys
from cluster.keys import Kind
from cluster.offers.common import label_of
from cluster.records import AccountSetting, Cluster, ClusterStatus, TaskDefinition, Token
from cluster.transitions import CLUSTER, DEFINITION, IllegalTransition, check
from journal.offers import Delete, Offer, Put, prefix_range
from journal.types import Revision


def create_cluster(
    cluster: str,
    record: Cluster | None = None,
    *,
    before: Cluster | None = None,
    revision: Revision = Revision(0),  # noqa: B008
) -> Offer:
    """Create a cluster; rejected if it exists.

    ``before`` and ``revision``: the INACTIVE record that it replaces, where it was deleted once.
    """
    record = record or Cluster(cluster_name=cluster)
    check(CLUSTER, before.status if before else None, record.status, f"cluster {cluster}")
    if before is not None and before.status is ClusterStatus.ACTIVE:
        raise IllegalTransition(f"cluster {cluster} is ACTIVE already")
    key = keys.cluster(cluster)
    return Offer(
        mutations=(Put(key, record.pack()),),
        expect=((key, revision),),
        label=label_of(f"create-cluster {cluster}"),
    )


def change_cluster(old: Cluster, new: Cluster, revision: Revision) -> Offer:
    """Replace the settings, configuration or tags of a cluster whose record is at ``revision``."""
    if (new.cluster_name, new.status) != (old.cluster_name, old.status):
        raise IllegalTransition(
            f"cluster {old.cluster_name}: a change leaves its name and status as they are"
        )
    key = keys.cluster(old.cluster_name)
    return Offer(
        mutations=(Put(key, new.pack()),),
        expect=((key, revision),),
        label=label_of(f"change cluster {old.cluster_name}"),
    )


def delete_cluster(record: Cluster, revision: Revision, *, at: Revision) -> Offer:
    """Make a cluster INACTIVE that was seen without instances, tasks and services at revision ``at``."""
    cluster = record.cluster_name
    check(CLUSTER, record.status, ClusterStatus.INACTIVE, f"cluster {cluster}")
    key = keys.cluster(cluster)
    return Offer(
        mutations=(Put(key, replace(record, status=ClusterStatus.INACTIVE).pack()),),
        expect=((key, revision),),
        ranges=tuple(
            prefix_range(keys.within(cluster, kind)) for kind in (Kind.INSTANCE, Kind.TASK, Kind.SERVICE)
        ),
        at=at,
        label=label_of(f"delete-cluster {cluster}"),
    )


def register_task_definition(definition: TaskDefinition) -> Offer:
    """Register one revision of a family; rejected if that revision exists."""
    key = keys.task_definition(definition.name)
    return Offer(
        mutations=(Put(key, definition.pack()),),
        expect=((key, 0),),
        label=label_of(f"register-task-definition {definition.name}"),
    )


def change_task_definition(old: TaskDefinition, new: TaskDefinition, revision: Revision) -> Offer:
    """Deregister or delete a revision whose record is at ``revision``, or change its tags."""
    check(DEFINITION, old.status, new.status, f"task definition {old.name}")
    same = replace(
        new,
        status=old.status,
        tags=old.tags,
        deregistered_at=old.deregistered_at,
        delete_requested_at=old.delete_requested_at,
    )
    if same != old:
        raise IllegalTransition(f"task definition {old.name}: what it says is never changed")
    key = keys.task_definition(old.name)
    return Offer(
        mutations=(Put(key, new.pack()),),
        expect=((key, revision),),
        label=label_of(f"task definition {old.name}: {new.status}"),
    )


def claim_token(cluster: str, client_token: str, token: Token) -> Offer:
    """Say what a request's token stands for; rejected if it stands for something.

    Put ``together`` with what the request does, so that it is done once.
    """
    key = keys.token(cluster, client_token)
    return Offer(mutations=(Put(key, token.pack()),), expect=((key, 0),), label="client token")


def forget_token(key: bytes, revision: Revision) -> Offer:
    """Delete a token's record, by its key: the token itself is not known any more."""
    return Offer(mutations=(Delete(key),), expect=((key, revision),), label="forget client token")


def put_account_setting(setting: AccountSetting) -> Offer:
    """Set it, whatever it was."""
    key = keys.account_setting(setting.name, setting.principal_arn)
    return Offer(mutations=(Put(key, setting.pack()),), label=label_of(f"account setting {setting.name}"))


def delete_account_setting(name: str, principal_arn: str = "") -> Offer:
    """Go back to the default; nothing happens if it was not set."""
    key = keys.account_setting(name, principal_arn)
    return Offer(mutations=(Delete(key),), label=label_of(f"delete account setting {name}"))
