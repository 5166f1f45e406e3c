"""What a node that has lost its data asks of the cluster, step by step and crash by crash."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

from journal.node import NodeMember
from journal.paxos.changes import AddLearner, MemberChange, Promote, Remove, changed
from journal.paxos.membership import Member, Membership
from journal.rejoin import NotExpected, Plan, begin, next_step, taken
from journal.types import NodeId


def at(node: int) -> str:
    return f"host:{7400 + node}"


def membership(*voters: int, learners: tuple[int, ...] = (), retired: tuple[int, ...] = ()) -> Membership:
    one, other = ([Member(NodeId(node), at(node)) for node in nodes] for nodes in (voters, learners))
    return Membership(tuple(one), tuple(other), tuple(NodeId(node) for node in retired))


def told(of: Membership) -> list[NodeMember]:
    members = [NodeMember(member.node, member.endpoint, True) for member in of.voters]
    return members + [NodeMember(member.node, member.endpoint, False) for member in of.learners]


def plan(node: int = 3) -> Plan:
    return Plan(NodeId(node), at(node))


def steps(of: Membership, begun: Plan) -> Iterator[tuple[MemberChange, Membership, Plan]]:
    """Take step after step, each of which the cluster makes."""
    while (step := next_step(begun, told(of))) is not None:
        try:
            of = changed(of, step)
        except ValueError:
            assert isinstance(step, AddLearner)
            begun = taken(begun)
        yield step, of, begun


def test_the_old_number_goes_and_a_new_one_comes_at_its_address() -> None:
    of = membership(1, 2, 3)
    begun = begin(plan(), told(of))
    assert (begun.number, begun.voted) == (4, True)
    made = list(steps(of, begun))
    assert [step for step, _of, _plan in made] == [Remove(NodeId(3)), AddLearner(NodeId(4), at(3))]
    after = made[-1][1]
    assert after.voter_ids == {1, 2}
    assert after.learners == (Member(NodeId(4), at(3)),)
    assert after.retired == (3,)


def test_after_a_crash_at_any_step_it_goes_on_with_the_same_number() -> None:
    of = membership(1, 2, 3)
    begun = begin(plan(), told(of))
    whole = [of, *(after for _step, after, _plan in steps(of, begun))]
    for crashed_at, _next in pairwise(whole):
        again = Plan.read(begun.facts())
        *_some, (_step, after, used) = steps(crashed_at, again)
        assert (after, used.number) == (whole[-1], begun.number)
    assert next_step(Plan.read(begun.facts()), told(whole[-1])) is None


def test_who_loses_the_note_as_well_takes_a_number_that_was_never_used() -> None:
    """It may have made promises under the one before."""
    of = membership(1, 2, 3)
    for expected in (4, 5, 6):
        *_some, (_step, of, used) = steps(of, begin(plan(), told(of)))
        assert used.number == expected
        of = changed(of, Promote(used.number)) if expected == 5 else of
    assert of.retired == (3, 4, 5)
    assert of.voter_ids == {1, 2}


def test_numbers_that_others_have_had_are_passed_over() -> None:
    of = membership(1, 2, 3, retired=(4, 5))
    *_some, (_step, after, used) = steps(of, begin(plan(), told(of)))
    assert used.number == 6
    assert after.endpoints()[NodeId(6)] == at(3)
    raced = changed(membership(1, 2, 3), AddLearner(NodeId(4), "other:1"))  # somebody was faster
    *_some, (_step, after, used) = steps(raced, begin(plan(), told(membership(1, 2, 3))))
    assert used.number == 5
    assert after.endpoints()[NodeId(4)] == "other:1"


def test_a_learner_comes_back_as_one_that_had_no_vote() -> None:
    of = membership(1, 2, learners=(3,))
    assert not begin(plan(), told(of)).voted


def test_who_is_not_expected_stays_away() -> None:
    with pytest.raises(NotExpected, match="is no member of the cluster any more"):
        begin(plan(), told(membership(1, 2, retired=(3,))))
    with pytest.raises(NotExpected, match="is at host:7402, and this one at host:7403"):
        begin(Plan(NodeId(2), at(3)), told(membership(1, 2, 3)))
