"""The cluster query language, as the API takes it: in ``filter`` and in placement constraints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from api.errors import ApiError, invalid
from cluster.query import QueryInvalid, compiled, facts_of
from cluster.state import ClusterState, InstanceView


def instance_filter(state: ClusterState, expression: str | None) -> Callable[[InstanceView], bool] | None:
    """Return whether an instance fits an expression; None where there is none. Raises ``ApiError``."""
    if not expression:
        return None
    try:
        query = compiled(expression)
    except QueryInvalid as error:
        raise invalid(f"Invalid filter: {error}") from None
    return lambda view: query.matches(facts_of(state, view))


def check_constraint(given: Mapping[str, Any], error: Callable[[str], ApiError]) -> None:
    """Raise ``error`` with what is wrong with a placement constraint of a call; nothing if it is right."""
    expression = given.get("expression") or ""
    match given.get("type"):
        case None:
            raise error("placementConstraints: a type is required.")
        case "distinctInstance":
            if expression:
                raise error("placementConstraints: distinctInstance takes no expression.")
        case _:
            if not expression:
                raise error("placementConstraints: memberOf needs an expression.")
            try:
                compiled(expression)
            except QueryInvalid as wrong:
                raise error(f"Invalid expression in placementConstraints: {wrong}") from None
