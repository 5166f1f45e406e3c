"""Which handler serves which operation. What is not here is refused with UnsupportedFeatureException."""

from __future__ import annotations

from collections.abc import Mapping

from api import (
    account,
    agents,
    attributes,
    clusters,
    definitions,
    deployments,
    instances,
    running,
    services,
    tags,
    tasks,
)
from api.calls import Handler

HANDLERS: Mapping[str, Handler] = {
    **account.HANDLERS,
    **agents.HANDLERS,
    **attributes.HANDLERS,
    **clusters.HANDLERS,
    **definitions.HANDLERS,
    **deployments.HANDLERS,
    **instances.HANDLERS,
    **running.HANDLERS,
    **services.HANDLERS,
    **tags.HANDLERS,
    **tasks.HANDLERS,
}
