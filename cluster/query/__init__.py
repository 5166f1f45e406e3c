"""The cluster query language: which container instances an expression means. PURE.

``compiled(text)`` parses once and remembers; ``Query.matches(facts)`` says whether an instance is
meant. A bad expression raises ``QueryInvalid``, which points at the place. The grammar is in
``cluster.query.parse``, what operators mean in ``cluster.query.meaning``.

It is a recursive descent by hand, not a grammar for a parser library: what a bare word is
depends on where it stands, ``!`` begins five different things, and an error must say what a
person would expect at that place.
"""

from cluster.query.ast import And, Compare, Exists, Expression, In, Not, Or, Subject, SubjectKind
from cluster.query.errors import TEXT_CHARACTERS_MAX, QueryInvalid
from cluster.query.meaning import Facts, InstanceFacts, Query, compiled, facts_of
from cluster.query.parse import parse
from cluster.query.show import show

__all__ = [
    "TEXT_CHARACTERS_MAX",
    "And",
    "Compare",
    "Exists",
    "Expression",
    "Facts",
    "In",
    "InstanceFacts",
    "Not",
    "Or",
    "Query",
    "QueryInvalid",
    "Subject",
    "SubjectKind",
    "compiled",
    "facts_of",
    "parse",
    "show",
]
