"""Every paginator, unchanged: all pages together are the listing, and nothing is in it twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.api.world import Ecs, define, register

Fails = Callable[..., str]

SIZE = 7
"""Of pages: a number that divides none of the listings."""


@pytest.fixture(scope="module")
def full(ecs: Ecs) -> str:
    ecs.create_cluster(clusterName="pages")
    for number in range(20):
        attributes = [{"name": "kind", "value": "even" if number % 2 == 0 else "odd"}]
        register(ecs, "pages", attributes=attributes)
    for number in range(16):
        define(ecs, f"pages-{number:02d}")
    define(ecs, "pages-00")
    for _ in range(3):
        ecs.run_task(cluster="pages", taskDefinition="pages-00:1", count=10, startedBy="pages")
    for number in range(15):
        ecs.create_service(
            cluster="pages", serviceName=f"s-{number:02d}", taskDefinition="pages-01:1", desiredCount=0
        )
        ecs.create_cluster(clusterName=f"pages-{number:02d}")
    return "pages"


LISTINGS = [
    ("list_clusters", "clusterArns", {}, None),
    ("list_container_instances", "containerInstanceArns", {"cluster": "pages"}, 20),
    (
        "list_container_instances",
        "containerInstanceArns",
        {"cluster": "pages", "filter": "attribute:kind == odd"},
        10,
    ),
    ("list_attributes", "attributes", {"cluster": "pages", "targetType": "container-instance"}, 20),
    ("list_tasks", "taskArns", {"cluster": "pages"}, 30),
    ("list_tasks", "taskArns", {"cluster": "pages", "startedBy": "pages", "family": "pages-00"}, 30),
    ("list_services", "serviceArns", {"cluster": "pages"}, 15),
    ("list_task_definitions", "taskDefinitionArns", {}, None),
    ("list_task_definitions", "taskDefinitionArns", {"sort": "DESC"}, None),
    ("list_task_definition_families", "families", {"familyPrefix": "pages-"}, 16),
    ("list_account_settings", "settings", {"effectiveSettings": True}, 11),
]


@pytest.mark.parametrize(("operation", "key", "params", "count"), LISTINGS)
def test_all_pages_are_the_listing(
    ecs: Ecs, other: Ecs, full: str, operation: str, key: str, params: dict[str, Any], count: int | None
) -> None:
    paginator = ecs.get_paginator(operation)
    pages = list(paginator.paginate(**params, PaginationConfig={"PageSize": SIZE}))
    assert all(len(page[key]) == SIZE for page in pages[:-1])
    assert "nextToken" not in pages[-1]
    items = [repr(item) for page in pages for item in page[key]]
    assert len(set(items)) == len(items)
    if count is not None:
        assert len(items) == count
    at_once = [repr(item) for page in paginator.paginate(**params) for item in page[key]]
    assert items == at_once
    # Any process goes on with the token of any other: they remember nothing.
    first = getattr(ecs, operation)(**params, maxResults=SIZE)
    second = getattr(other, operation)(**params, maxResults=SIZE, nextToken=first["nextToken"])
    assert [repr(item) for item in second[key]] == items[SIZE : 2 * SIZE]


def test_a_listing_of_services_is_ten_long_unless_one_says(ecs: Ecs, full: str) -> None:
    assert len(ecs.list_services(cluster="pages")["serviceArns"]) == 10


def test_pages_stay_whole_while_things_come_and_go(ecs: Ecs, full: str) -> None:
    before = ecs.list_tasks(cluster="pages")["taskArns"]
    first = ecs.list_tasks(cluster="pages", maxResults=10)
    for arn in first["taskArns"][5:]:  # what was listed goes, and the place in the listing is still good
        ecs.submit_task_state_change(cluster="pages", task=arn, status="STOPPED")
        ecs.stop_task(cluster="pages", task=arn)
    rest = ecs.list_tasks(cluster="pages", nextToken=first["nextToken"])["taskArns"]
    assert first["taskArns"] + rest == before
    ecs.run_task(cluster="pages", taskDefinition="pages-00:1", count=5)


@pytest.mark.parametrize(("operation", "key", "params", "count"), LISTINGS)
def test_a_token_that_is_none(
    ecs: Ecs, full: str, fails: Fails, operation: str, key: str, params: dict[str, Any], count: int | None
) -> None:
    call = getattr(ecs, operation)
    fails("InvalidParameterException", call, **params, nextToken="garbage")
    fails("InvalidParameterException", call, **params, maxResults=0)
    fails("InvalidParameterException", call, **params, maxResults=101)
