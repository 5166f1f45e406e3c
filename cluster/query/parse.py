"""Reads an expression: a recursive descent over the text. PURE.

::

    expr      := and_expr ( ("or" | "||") and_expr )*
    and_expr  := not_expr ( ("and" | "&&") not_expr )*
    not_expr  := ("not" | "!") not_expr | "(" expr ")" | predicate
    predicate := subject ( "exists" | "!exists" | "not_exists" )
               | subject ( "in" | "!in" | "not_in" ) "[" literal ( "," literal )* "]"
               | subject compare literal
    compare   := "==" equals | "!=" not_equals | ">" greater_than | ">=" greater_than_equal
               | "<" less_than | "<=" less_than_equal | "=~" matches | "!~" not_matches
    subject   := "attribute:" NAME | agentConnected | agentVersion | ec2InstanceId | registeredAt
               | runningTasksCount | "task:group"
    NAME      := [A-Za-z0-9_./-]{1,128}
    literal   := 'quoted' | "quoted" | bare word
"""

from __future__ import annotations

import re
from collections.abc import Callable

from cluster.query.ast import (
    EQUALITY,
    MATCHING,
    ORDERING,
    WORDS,
    And,
    Compare,
    Exists,
    Expression,
    In,
    Not,
    Operator,
    Or,
    Subject,
    SubjectKind,
)
from cluster.query.errors import TEXT_CHARACTERS_MAX, QueryInvalid
from cluster.query.values import ValueUnreadable, check_value

NESTING_MAX = 50
"""Parentheses and negations within one another."""
NAME_CHARACTERS_MAX = 128

_NAME = re.compile(r"[A-Za-z0-9_./\-]+")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BLANK = re.compile(r"\s*")
_BARE = re.compile(r"[^\s()]+")
_BARE_IN_LIST = re.compile(r"[^\s(),\]]+")
_SYMBOL = re.compile(r"==|!=|>=|<=|=~|!~|>|<")

_PLAIN = {str(kind): kind for kind in SubjectKind if kind is not SubjectKind.ATTRIBUTE}
_COMPARED = (SubjectKind.AGENT_VERSION, SubjectKind.REGISTERED_AT, SubjectKind.RUNNING_TASKS_COUNT)
_NAMED = (SubjectKind.AGENT_CONNECTED, SubjectKind.EC2_INSTANCE_ID)


def parse(text: str) -> Expression:
    """Return the tree of an expression. Raises ``QueryInvalid``."""
    if len(text) > TEXT_CHARACTERS_MAX:
        why = f"an expression has at most {TEXT_CHARACTERS_MAX} characters, this one has {len(text)}"
        raise QueryInvalid(text, TEXT_CHARACTERS_MAX, why)
    return _Parser(text).whole()


class _Parser:
    """Stands at a place of the text. Each method reads one rule from there."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0

    def whole(self) -> Expression:
        if not self.text.strip():
            raise QueryInvalid(self.text, 0, "the expression is empty")
        expression = self.expression()
        self.blanks()
        if self.at < len(self.text):
            if self.text[self.at] == ")":
                raise self.error("a ')' without its '('")
            raise self.error("'and', 'or' or the end is expected")
        return expression

    # -- rules ----------------------------------------------------------------------

    def expression(self) -> Expression:
        return self.joined(self.and_expression, "or", "||", Or)

    def and_expression(self) -> Expression:
        return self.joined(self.not_expression, "and", "&&", And)

    def joined(
        self, rule: Callable[[], Expression], word: str, symbol: str, node: type[And] | type[Or]
    ) -> Expression:
        items = [rule()]
        while self.takes_word(word) or self.takes(symbol):
            items.append(rule())
        return items[0] if len(items) == 1 else node(tuple(items))

    def not_expression(self) -> Expression:
        self.blanks()
        start = self.at
        if self.depth >= NESTING_MAX:
            raise self.error(f"more than {NESTING_MAX} parentheses and negations within one another")
        self.depth += 1
        try:
            if self.takes_word("not") or self.takes("!"):
                return Not(self.not_expression())
            if self.takes("("):
                expression = self.expression()
                if not self.takes(")"):
                    self.blanks()
                    if self.at < len(self.text):
                        raise self.error("'and', 'or' or ')' is expected")
                    raise QueryInvalid(self.text, start, "a '(' without its ')'")
                return expression
            return self.predicate()
        finally:
            self.depth -= 1

    def predicate(self) -> Expression:
        subject = self.subject()
        self.blanks()
        start = self.at
        for negated, words in ((False, ("exists",)), (True, ("!exists", "not_exists"))):
            if any(self.takes_word(word) for word in words):
                self.allow(subject, subject.kind not in (*_COMPARED, *_NAMED), "exists", start)
                return Exists(subject, negated)
        for negated, words in ((False, ("in",)), (True, ("!in", "not_in"))):
            if any(self.takes_word(word) for word in words):
                self.allow(subject, subject.kind not in _COMPARED, "in", start)
                return In(subject, self.values(subject), negated)
        operator = self.operator()
        allowed = ORDERING | EQUALITY | MATCHING
        if subject.kind in _COMPARED:
            allowed = ORDERING | EQUALITY
        elif subject.kind in _NAMED:
            allowed = EQUALITY | MATCHING
        self.allow(subject, operator in allowed, operator, start)
        return Compare(subject, operator, self.literal(subject, operator))

    def subject(self) -> Subject:
        self.blanks()
        for prefix in ("attribute:", "attributes:"):
            if self.text.startswith(prefix, self.at):
                self.at += len(prefix)
                name = _NAME.match(self.text, self.at)
                if name is None:
                    raise self.error("the name of an attribute is expected")
                if len(name[0]) > NAME_CHARACTERS_MAX:
                    raise self.error(f"an attribute's name has at most {NAME_CHARACTERS_MAX} characters")
                self.at = name.end()
                return Subject(SubjectKind.ATTRIBUTE, name[0])
        for word, kind in _PLAIN.items():
            if self.takes_word(word):
                return Subject(kind)
        raise self.error(
            "attribute:<name>, " + ", ".join(_PLAIN) + ", 'not' or '(' is expected"
            if self.at < len(self.text)
            else "the expression ends where a condition is expected"
        )

    def operator(self) -> Operator:
        symbol = _SYMBOL.match(self.text, self.at)
        if symbol:
            self.at = symbol.end()
            return Operator(symbol[0])
        word = _WORD.match(self.text, self.at)
        if word and word[0] in WORDS:
            self.at = word.end()
            return WORDS[word[0]]
        raise self.error("an operator is expected (==, !=, >, >=, <, <=, =~, !~, exists, !exists, in, !in)")

    def values(self, subject: Subject) -> tuple[str, ...]:
        if not self.takes("["):
            raise self.error("'[' is expected")
        values = [self.literal(subject, None)]
        while not self.takes("]"):
            if not self.takes(","):
                raise self.error("',' or ']' is expected")
            values.append(self.literal(subject, None))
        return tuple(values)

    def literal(self, subject: Subject, operator: Operator | None) -> str:
        """Read a value; without an operator it is one of a list."""
        self.blanks()
        start = self.at
        quote = self.text[start : start + 1]
        if quote in ("'", '"'):
            end = self.text.find(quote, start + 1)
            if end < 0:
                raise self.error(f"a {quote} without its end")
            value, self.at = self.text[start + 1 : end], end + 1
        else:
            word = (_BARE if operator else _BARE_IN_LIST).match(self.text, start)
            if word is None:
                raise self.error("a value is expected")
            value, self.at = word[0], word.end()
        try:
            check_value(subject.kind, operator, value)
        except ValueUnreadable as error:
            raise QueryInvalid(self.text, start, str(error)) from error
        return value

    # -- reading --------------------------------------------------------------------

    def allow(self, subject: Subject, allowed: bool, operator: str, at: int) -> None:
        if not allowed:
            raise QueryInvalid(self.text, at, f"{subject} does not take {operator}")

    def blanks(self) -> None:
        match = _BLANK.match(self.text, self.at)
        assert match is not None
        self.at = match.end()

    def takes(self, symbol: str) -> bool:
        self.blanks()
        if not self.text.startswith(symbol, self.at):
            return False
        self.at += len(symbol)
        return True

    def takes_word(self, word: str) -> bool:
        """Take a word where it stands as a whole."""
        self.blanks()
        if not self.text.startswith(word, self.at):
            return False
        after = self.text[self.at + len(word) : self.at + len(word) + 1]
        if after and (after.isalnum() or after in "_.-:/"):
            return False
        self.at += len(word)
        return True

    def error(self, why: str) -> QueryInvalid:
        return QueryInvalid(self.text, self.at, why)
