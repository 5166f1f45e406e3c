"""The cluster query language: what it reads, what it means, and how it says what is wrong."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.query import (
    And,
    Compare,
    Exists,
    Expression,
    In,
    InstanceFacts,
    Not,
    Or,
    QueryInvalid,
    Subject,
    SubjectKind,
    compiled,
    parse,
    show,
)
from cluster.query.ast import WORDS, Operator
from cluster.query.meaning import check_of
from cluster.query.pattern import Pattern, PatternInvalid

FACTS = InstanceFacts(
    attributes={
        "ecs.instance-type": "t2.small",
        "ecs.availability-zone": "us-east-1a",
        "stack": "prod",
        "empty": "",
    },
    connected=True,
    agent_version="1.105.0",
    ec2_instance_id="i-0abc",
    registered_at=1_529_360_908.0,  # 2018-06-18T22:28:28Z
    running_tasks=3,
    groups=("family:web", "service:db"),
)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        # The command lines of AWS's slides.
        ("attribute:ecs.instance-type == t2.small", True),
        ("attribute:ecs.availability-zone == us-east-1a", True),
        ("attribute:ecs.instance-type == t2.small and attribute:ecs.availability-zone == us-east-1d", False),
        (
            "(attribute:ecs.instance-type == t2.small or attribute:ecs.instance-type == t2.medium)"
            " and attribute:ecs.availability-zone != us-east-1d",
            True,
        ),
        ("attributes:ecs.instance-type =~ t2.*", True),
        ("attribute:ecs.instance-type =~ g2.* and attribute:ecs.availability-zone =~ us-east-1.*", False),
        ("attribute:ecs.availability-zone in [us-east-1a, us-east-1b]", True),
        ("task:group == service:db", True),
        ("not(task:group == service:db)", False),
        ("agentConnected==true", True),
        ("registeredAt >= 2018-06-18T22:28:28+00:00", True),
        # Symbols and words, with and without blanks.
        ("attribute:stack==prod&&!attribute:stack!=prod", False),  # a bare word goes up to a blank
        ("attribute:stack == prod && !attribute:stack != prod", True),
        ("attribute:stack equals prod || attribute:nothing exists", True),
        ("attribute:stack not_equals test", True),
        ("attribute:stack in['prod','test']", True),
        ("attribute:stack !in [prod,test]", False),
        ("attribute:stack not_in [a,b]", True),
        ("attribute:stack matches pro", False),
        ("attribute:stack matches 'p(r|x)od'", True),
        ("attribute:stack !~ p.*", False),
        ("attribute:stack not_matches q.*", True),
        ("attribute:stack > aaa and attribute:stack<=prod", True),
        ("attribute:stack greater_than zzz", False),
        ("attribute:stack less_than_equal prod", True),
        ("attribute:stack == Prod", False),
        # What is missing.
        ("attribute:no == x", False),
        ("attribute:no != x", False),
        ("attribute:no !in [x]", False),
        ("attribute:no !~ x", False),
        ("attribute:no exists", False),
        ("attribute:no !exists", True),
        ("attribute:no not_exists", True),
        ("not attribute:no == x", True),
        ("attribute:empty exists", True),
        ("attribute:empty != x", True),
        ("attribute:empty == ''", True),
        # Values with a meaning of their own.
        ("agentVersion > 1.9", True),
        ("agentVersion == 1.105", True),
        ("agentVersion < 1.105.1", True),
        ("runningTasksCount < 10", True),
        ("runningTasksCount >= 3 and runningTasksCount != 4", True),
        ("registeredAt < 2018-06-18", False),
        ("registeredAt > 2018-06-18", True),
        ("registeredAt == 2018-06-19T00:28:28+02:00", True),
        ("registeredAt < 2018-06-18T22:28:28.5Z", True),
        ("ec2InstanceId in [i-0abc,i-1]", True),
        ("ec2InstanceId =~ i-0.*", True),
        ("agentConnected in [false]", False),
        # All groups of an instance.
        ("task:group != service:db", False),
        ("task:group != service:other", True),
        ("task:group in [x,family:web]", True),
        ("task:group !in [x,y]", True),
        ("task:group =~ service:.*", True),
        ("task:group exists", True),
        # not binds before and, and before or.
        ("not attribute:a exists and attribute:stack == prod", True),
        ("attribute:a exists and attribute:b exists or attribute:stack exists", True),
        ("attribute:stack exists or attribute:a exists and attribute:b exists", True),
        ("not not attribute:stack exists", True),
        ("!(attribute:stack exists)", False),
    ],
)
def test_what_expressions_mean(text: str, holds: bool) -> None:
    assert compiled(text).matches(FACTS) is holds


@pytest.mark.parametrize(
    ("text", "at", "why"),
    [
        ("", 0, "empty"),
        ("   ", 0, "empty"),
        ("attribute:", 10, "the name of an attribute"),
        ("attribute: x == y", 10, "the name of an attribute"),
        ("atribute:x == y", 0, "attribute:<name>"),
        ("attribute:x = y", 12, "an operator is expected"),
        ("attribute:x ==", 14, "a value is expected"),
        ("attribute:x == y z", 17, "'and', 'or' or the end"),
        ("(attribute:x == y", 0, "without its ')'"),
        ("(attribute:x == y z)", 18, "'and', 'or' or ')'"),
        ("attribute:x == y)", 16, "without its '('"),
        ("attribute:x == 'y", 15, "a ' without its end"),
        ("attribute:x in y", 15, "'[' is expected"),
        ("attribute:x in [", 16, "a value is expected"),
        ("attribute:x in [a b]", 18, "',' or ']'"),
        ("attribute:x in [a,]", 18, "a value is expected"),
        ("attribute:x == y and", 20, "ends where a condition"),
        ("attribute:x =~ '(a'", 15, "without its ')'"),
        ("attribute:x =~ '*a'", 15, "nothing stands before"),
        ("agentVersion == new", 16, "'new' is no version"),
        ("agentVersion exists", 13, "agentVersion does not take exists"),
        ("agentVersion in [1.2]", 13, "does not take in"),
        ("agentVersion =~ 1.*", 13, "does not take =~"),
        ("agentConnected > true", 15, "does not take >"),
        ("ec2InstanceId !exists", 14, "does not take exists"),
        ("runningTasksCount > many", 20, "'many' is no number"),
        ("registeredAt > yesterday", 15, "no instant"),
        ("registeredAt > 2018-02-30", 15, "no instant"),
        ("registeredAt > 18.06.2018", 15, "no instant"),
        ("not", 3, "ends where a condition"),
        ("attribute:" + "x" * 129 + " exists", 10, "at most 128 characters"),
        ("(" * 60 + "attribute:x exists" + ")" * 60, 50, "more than 50 parentheses"),
        ("!" * 1500 + "attribute:x exists", 50, "more than 50 parentheses"),
        ("attribute:x == " + "y" * 2000, 2000, "at most 2000 characters"),
    ],
)
def test_a_bad_expression_is_refused_at_the_place(text: str, at: int, why: str) -> None:
    with pytest.raises(QueryInvalid) as caught:
        parse(text)
    assert caught.value.position == at
    assert why in caught.value.why


def test_an_error_shows_the_place() -> None:
    with pytest.raises(QueryInvalid) as caught:
        parse("attribute:stack == prod and atribute:x == 1")
    assert str(caught.value).splitlines()[1:] == [
        "attribute:stack == prod and atribute:x == 1",
        "                            ^",
    ]
    with pytest.raises(QueryInvalid) as caught:
        parse("attribute:x == y and " * 20 + "oops")
    line, caret = str(caught.value).splitlines()[1:]
    assert line[caret.index("^") :].startswith("oops")


# -- against a naive twin --------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "ecs.os-type", "no/where"])
WORDS_OF_TEXT = st.sampled_from(
    ["x", "y", "X", "", "or", "a b", "x)", "it's", '"', "[1]", ",", "x.*", "service:w"]
)
SUBJECTS = st.builds(Subject, st.just(SubjectKind.ATTRIBUTE), NAMES) | st.just(
    Subject(SubjectKind.TASK_GROUP)
)
PLAIN = st.sampled_from([Subject(SubjectKind.AGENT_CONNECTED), Subject(SubjectKind.EC2_INSTANCE_ID)])
STRING_OPERATORS = [op for op in Operator if op not in (Operator.MATCHES, Operator.NOT_MATCHES)]
MATCH = st.sampled_from([Operator.MATCHES, Operator.NOT_MATCHES])
PATTERNS = st.sampled_from(["x", "x.*", "[a-z]?", "(x|y)+", "service:.*", ".*"])
ORDERED = st.sampled_from(STRING_OPERATORS)
PREDICATES: st.SearchStrategy[Expression] = st.one_of(
    st.builds(Exists, SUBJECTS, st.booleans()),
    st.builds(
        In, SUBJECTS | PLAIN, st.lists(WORDS_OF_TEXT, min_size=1, max_size=3).map(tuple), st.booleans()
    ),
    st.builds(Compare, SUBJECTS, ORDERED, WORDS_OF_TEXT),
    st.builds(Compare, PLAIN, st.sampled_from([Operator.EQUALS, Operator.NOT_EQUALS]), WORDS_OF_TEXT),
    st.builds(Compare, SUBJECTS | PLAIN, MATCH, PATTERNS),
    st.builds(
        Compare, st.just(Subject(SubjectKind.AGENT_VERSION)), ORDERED, st.sampled_from(["1", "1.2.0", "10.0"])
    ),
    st.builds(
        Compare,
        st.just(Subject(SubjectKind.RUNNING_TASKS_COUNT)),
        ORDERED,
        st.sampled_from(["0", "2", "3.5"]),
    ),
    st.builds(
        Compare,
        st.just(Subject(SubjectKind.REGISTERED_AT)),
        ORDERED,
        st.sampled_from(["1970-01-01", "1970-01-01T00:00:05Z", "1970-01-01T01:00:05+01:00"]),
    ),
)
EXPRESSIONS = st.recursive(
    PREDICATES,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
    ),
    max_leaves=8,
)
SOME_FACTS = st.builds(
    InstanceFacts,
    attributes=st.dictionaries(NAMES, WORDS_OF_TEXT),
    connected=st.booleans(),
    agent_version=st.sampled_from(["", "1.0", "1.2", "9.9.9", "10", "dev"]),
    ec2_instance_id=st.sampled_from(["", "x", "y"]),
    registered_at=st.sampled_from([0.0, 5.0, 5.5]),
    running_tasks=st.integers(0, 4),
    groups=st.lists(st.sampled_from(["x", "service:w", ""]), max_size=2).map(tuple),
)


@given(EXPRESSIONS)
@settings(max_examples=300, deadline=None)
def test_what_is_shown_is_read_as_it_was(expression: Expression) -> None:
    assert parse(show(expression)) == expression


@given(EXPRESSIONS, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_symbols_words_and_blanks_make_no_difference(expression: Expression, rng: Any) -> None:
    text = show(expression)
    quoted = re.compile(r"""('[^']*'|"[^"]*")""")
    pieces = quoted.split(text)
    others = {" and ": " && ", " or ": "\t||  ", "not ": "! ", "!exists": "not_exists", "!in ": "not_in "}
    others |= {f" {symbol} ": f" {word} " for word, symbol in WORDS.items()}
    for index in range(0, len(pieces), 2):
        for one, other in others.items():
            if rng.random() < 0.5:
                pieces[index] = pieces[index].replace(one, other)
    assert parse("".join(pieces)) == expression


@given(EXPRESSIONS, SOME_FACTS)
@settings(max_examples=600, deadline=None)
def test_against_a_naive_reader(expression: Expression, facts: InstanceFacts) -> None:
    assert check_of(expression)(facts) == naive(expression, facts)


def naive(expression: Expression, facts: InstanceFacts) -> bool:
    """The page of the language, sentence by sentence."""
    match expression:
        case And(items):
            return all(naive(item, facts) for item in items)
        case Or(items):
            return any(naive(item, facts) for item in items)
        case Not(item):
            return not naive(item, facts)
    kind = expression.subject.kind
    if kind is SubjectKind.TASK_GROUP:
        positive = _positive(expression)
        held = any(naive(_about(positive, "g"), replace(facts, attributes={"g": g})) for g in facts.groups)
        return held if positive == expression else not held
    found: Any = {
        SubjectKind.ATTRIBUTE: facts.attributes.get(expression.subject.name),
        SubjectKind.AGENT_CONNECTED: str(facts.connected).lower(),
        SubjectKind.AGENT_VERSION: facts.agent_version if facts.agent_version[:1].isdigit() else None,
        SubjectKind.EC2_INSTANCE_ID: facts.ec2_instance_id or None,
        SubjectKind.REGISTERED_AT: facts.registered_at or None,
        SubjectKind.RUNNING_TASKS_COUNT: facts.running_tasks,
    }[kind]
    if isinstance(expression, Exists):
        return (found is None) == expression.negated
    if found is None:
        return False
    if isinstance(expression, In):
        return (found in expression.values) != expression.negated
    return _compare(kind, expression.operator, found, expression.value)


def _compare(kind: SubjectKind, how: Operator, found: Any, wanted: Any) -> bool:
    if how is Operator.MATCHES:
        return re.fullmatch(wanted, found) is not None
    if how is Operator.NOT_MATCHES:
        return re.fullmatch(wanted, found) is None
    if kind is SubjectKind.RUNNING_TASKS_COUNT:
        wanted = float(wanted)
    elif kind is SubjectKind.REGISTERED_AT:
        wanted = 0.0 if wanted == "1970-01-01" else 5.0
    elif kind is SubjectKind.AGENT_VERSION:
        found, wanted = ([*map(int, v.split(".")), 0, 0, 0][:3] for v in (found, wanted))
    tests: dict[Operator, Callable[[], bool]] = {
        Operator.EQUALS: lambda: found == wanted,
        Operator.NOT_EQUALS: lambda: found != wanted,
        Operator.GREATER: lambda: found > wanted,
        Operator.GREATER_EQUAL: lambda: found >= wanted,
        Operator.LESS: lambda: found < wanted,
        Operator.LESS_EQUAL: lambda: found <= wanted,
    }
    return tests[how]()


def _positive(predicate: Any) -> Any:
    if isinstance(predicate, Compare):
        positive = {Operator.NOT_EQUALS: Operator.EQUALS, Operator.NOT_MATCHES: Operator.MATCHES}
        return replace(predicate, operator=positive.get(predicate.operator, predicate.operator))
    return replace(predicate, negated=False)


def _about(predicate: Any, name: str) -> Any:
    return replace(predicate, subject=Subject(SubjectKind.ATTRIBUTE, name))


# -- regular expressions ----------------------------------------------------------------

ATOMS = st.sampled_from(["a", "b", ".", "[ab]", "[^a]", r"\w", r"\.", "-", "^", "$", "[a-c-]", "[]a]"])


def _repeated(part: str) -> st.SearchStrategy[str]:
    return st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{0,}", "*?", "??"]).map(
        lambda sign: f"(?:{part}){sign}"
    )


REGEXES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
        inner.flatmap(_repeated),
    ),
    max_leaves=6,
)


@given(REGEXES, st.lists(st.text(alphabet="ab.-c", max_size=6), min_size=1, max_size=5))
@settings(max_examples=400, deadline=None)
def test_a_pattern_matches_what_pythons_does(text: str, values: list[str]) -> None:
    known = re.compile(text)
    pattern = Pattern(text)
    for value in values:
        assert pattern.matches(value) == (known.fullmatch(value) is not None), (text, value)


def test_case_may_be_ignored() -> None:
    assert Pattern("(?i)T2\\..*").matches("t2.SMALL")
    assert not Pattern("T2\\..*").matches("t2.small")


@pytest.mark.parametrize(
    "text", ["(a+)+b", "(a|a)*b", "(a*)*b", "a*a*a*a*a*a*a*a*b", "(.*a){12}b", "((){999}){999}"]
)
def test_no_pattern_takes_long(text: str) -> None:
    """Each of these keeps a backtracking matcher busy for longer than anybody waits."""
    begun = time.process_time()
    assert not Pattern(text).matches("a" * 100)
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    "text",
    [
        "(",
        ")",
        "[",
        "[a",
        "a**",
        "a*+",
        "*",
        "\\",
        "\\1",
        "(?=a)",
        "(?P<n>a)",
        "a{2",
        "a{x}",
        "a{3,2}",
        "[b-a]",
        "a{9999}",
        "(a{1000}){1000}",
        "(" * 60 + ")" * 60,
        "a|" * 1001,
        "{2}",
    ],
)
def test_a_pattern_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(PatternInvalid):
        Pattern(text)
