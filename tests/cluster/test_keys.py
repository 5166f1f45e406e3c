"""A key is made in one way, and comes apart in one way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import keys
from cluster.keys import Kind, NameInvalid, Parsed

NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True)


@given(NAMES, NAMES, NAMES, st.integers(1, 10**9))
def test_every_key_comes_apart_as_it_was_made(cluster: str, instance: str, task: str, revision: int) -> None:
    assert keys.parse(keys.cluster(cluster)) == Parsed(Kind.CLUSTER, cluster)
    assert keys.parse(keys.instance(cluster, instance)) == Parsed(Kind.INSTANCE, cluster, instance)
    assert keys.parse(keys.capacity(cluster, instance)) == Parsed(Kind.CAPACITY, cluster, instance)
    assert keys.parse(keys.alive(cluster, instance)) == Parsed(Kind.ALIVE, cluster, instance)
    assert keys.parse(keys.task(cluster, instance, task)) == Parsed(Kind.TASK, cluster, instance, task)
    assert keys.parse(keys.status(cluster, instance, task)) == Parsed(Kind.STATUS, cluster, instance, task)
    slot = keys.slot(cluster, instance, task)
    assert keys.parse(slot) == Parsed(Kind.SLOT, cluster, name=task, owner=instance)
    assert slot.startswith(keys.slots_of(cluster, instance))
    definition = keys.task_definition(f"{task}:{revision}")
    assert keys.parse(definition) == Parsed(Kind.TASK_DEFINITION, family=task, revision=revision)
    assert keys.task(cluster, instance, task).startswith(keys.tasks_of(cluster, instance))
    assert keys.status(cluster, instance, task).startswith(keys.statuses_of(cluster, instance))
    assert definition.startswith(keys.family(task))


@given(NAMES, NAMES, NAMES)
def test_no_name_is_within_another(cluster: str, one: str, other: str) -> None:
    """The prefix of one instance holds no task of another, even where its name goes on."""
    inside = keys.task(cluster, other, "t").startswith(keys.tasks_of(cluster, one))
    assert inside == (one == other)


@pytest.mark.parametrize("name", ["", "a/b", "a b", "é", "x" * 256, "a\n", "..", "a:1"])
def test_a_name_that_would_break_a_key_is_refused(name: str) -> None:
    with pytest.raises(NameInvalid, match="instance"):
        keys.instance("default", name)


@pytest.mark.parametrize("name", ["web", "web:", "web:0", "web:01", ":1", "web:1:2", "a/b:1", "web:1\n"])
def test_a_definition_is_family_and_revision(name: str) -> None:
    with pytest.raises(NameInvalid, match="family:revision"):
        keys.task_definition(name)


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b"cluster",
        b"cluster/",
        b"cluster/a/",
        b"cluster/a/service",
        b"cluster/a/service/web/other",
        b"cluster/a/service/web/task",
        b"account",
        b"account/a/b/c",
        b"cluster/a/task/i",
        b"cluster/a/task/i/t/x",
        b"cluster/a/other/i",
        b"taskdef/web/x",
        b"taskdef/web/01",
        b"other/a",
        b"cluster/\xff",
        b"cluster/a b",
    ],
)
def test_a_foreign_key_is_nobodys(key: bytes) -> None:
    assert keys.parse(key) is None
