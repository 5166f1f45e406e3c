"""Deletes what has outlived its time, a little at once. Any number of processes may do it.

* Client tokens older than ``token_keep_s``.
* STOPPED tasks older than ``stopped_keep_s`` on instances that no agent of Synod's answers for: an
  agent deletes its own. They stay describable until then, at least for the hour that ECS promises.
"""

from __future__ import annotations

from collections.abc import Iterator

import trio

from api.calls import Api
from cluster import offers
from cluster.records import LastStatus
from cluster.state import ClusterState
from journal.errors import JournalError
from journal.offers import Offer

SWEPT_MAX = 500
"""Records that one sweep deletes at most."""


async def sweep(api: Api) -> None:
    """Sweep now and then until cancelled. What fails is tried again the next time."""
    while True:
        await trio.sleep(api.settings.sweep_interval_s * api.rng.uniform(0.8, 1.2))
        due = outlived(
            api.live.state,
            api.wall(),
            token_keep_s=api.settings.token_keep_s,
            stopped_keep_s=api.settings.stopped_keep_s,
        )
        if not due:
            continue
        try:
            await api.journal.offer_many(due)
        except JournalError as error:
            api.log.info("api.sweep_failed", reason=str(error))
        else:
            api.log.info("api.swept", records=len(due))


def outlived(state: ClusterState, now: float, *, token_keep_s: float, stopped_keep_s: float) -> list[Offer]:
    """Return an offer for each record that is to go, at most ``SWEPT_MAX``. ``now``: wall clock, seconds."""
    found: list[Offer] = []
    for cluster in state.clusters:
        for due in (
            _tokens(state, cluster, now - token_keep_s),
            _tasks(state, cluster, now - stopped_keep_s),
        ):
            for offer in due:
                if len(found) == SWEPT_MAX:
                    return found
                found.append(offer)
    return found


def _tokens(state: ClusterState, cluster: str, before: float) -> Iterator[Offer]:
    for key, at in state.tokens(cluster).items():
        if at.record.created_at < before:
            yield offers.forget_token(key, at.revision)


def _tasks(state: ClusterState, cluster: str, before: float) -> Iterator[Offer]:
    for view in state.tasks(cluster, last=LastStatus.STOPPED):
        instance = state.instance(cluster, view.instance)
        if instance is not None and instance.record.host:
            continue
        status = view.status
        if status is None or view.desired is None or view.observed is None:
            continue
        if (status.stopped_at or 0.0) < before:
            yield offers.forget(
                cluster, view.instance, view.id, view.desired.revision, status, view.observed.revision
            )
