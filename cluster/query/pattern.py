"""Regular expressions that take time in proportion to the text, whatever the pattern. PURE.

Anybody may send a pattern, and a backtracking matcher can be kept busy for years by
``(a+)+b``. This is Thompson's construction: the pattern becomes a small program, and all of its
paths are followed at once (Cox, "Regular Expression Matching: the Virtual Machine Approach").
What needs backtracking (back references, looking around) is refused.

Known: literals, ``.``, ``[a-z]`` and ``[^a-z]``, ``\\d \\w \\s`` and their capitals, other escapes,
groups, ``|``, ``* + ? {m} {m,} {m,n}`` (lazy ones too: it changes nothing here), ``^``, ``$``, and
``(?i)`` at the beginning. The whole value must match.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

PROGRAM_STEPS_MAX = 2_000
NESTING_MAX = 50
REPEAT_MAX = 1_000
REMEMBERED_VALUES_MAX = 1_000
_REPEATS = ("*", "+", "?", "{")

Test = Callable[[str], bool]


class PatternInvalid(ValueError):
    """A pattern that cannot be read; the text says where."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of the program: take a character, go two ways, or only on at an end of the value."""

    test: Test | None = None
    ways: tuple[int, ...] = ()
    at_start: bool = False
    at_end: bool = False


# Parts of a pattern: each appends its steps to a program, which goes on after them.
Part = Callable[[list[_Step]], None]


class Pattern:
    """A pattern that is ready to match. Raises ``PatternInvalid``."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._fold = text.startswith("(?i)")
        reader = _Reader(text.lower() if self._fold else text, 4 if self._fold else 0)
        part = reader.whole()
        self._program: list[_Step] = []
        part(self._program)
        self._known: dict[str, bool] = {}

    def matches(self, value: str) -> bool:
        """Say whether the whole of ``value`` matches."""
        known = self._known.get(value)
        if known is None:
            if len(self._known) >= REMEMBERED_VALUES_MAX:
                self._known.clear()
            known = self._known[value] = self._run(value.lower() if self._fold else value)
        return known

    def _run(self, value: str) -> bool:
        program, end = self._program, len(self._program)
        states = self._reach({0}, 0, len(value))
        for position, character in enumerate(value):
            taken: set[int] = set()
            for state in states:
                test = program[state].test if state < end else None
                if test is not None and test(character):
                    taken.add(state + 1)
            if not taken:
                return False
            states = self._reach(taken, position + 1, len(value))
        return end in states

    def _reach(self, begin: set[int], position: int, length: int) -> set[int]:
        """Return every state that can be reached without taking a character."""
        found: set[int] = set()
        todo = list(begin)
        while todo:
            state = todo.pop()
            if state in found:
                continue
            found.add(state)
            if state == len(self._program):
                continue
            step = self._program[state]
            if step.test is None:
                if (step.at_start and position != 0) or (step.at_end and position != length):
                    continue
                todo.extend(state + way for way in step.ways)
        return found


class _Reader:
    """Reads a pattern by recursive descent."""

    def __init__(self, text: str, at: int) -> None:
        self.text = text
        self.at = at
        self.depth = 0

    def whole(self) -> Part:
        part = self.alternatives()
        if self.at < len(self.text):
            raise self.error("a ')' without its '('")
        return part

    def alternatives(self) -> Part:
        self.depth += 1
        if self.depth > NESTING_MAX:
            raise self.error(f"more than {NESTING_MAX} groups within one another")
        branches = [self.sequence()]
        while self.peek() == "|":
            self.at += 1
            branches.append(self.sequence())
        self.depth -= 1
        return _either(branches)

    def sequence(self) -> Part:
        parts: list[Part] = []
        while self.peek() not in ("", "|", ")"):
            parts.append(self.repeated())
        return _all(parts)

    def repeated(self) -> Part:
        part = self.atom()
        if self.peek() not in _REPEATS:
            return part
        low, high = self.bounds()
        if self.peek() == "?":
            self.at += 1
        if self.peek() in _REPEATS:
            raise self.error("a repetition of a repetition (or a possessive one) is not known here")
        return _repeat(part, low, high)

    def bounds(self) -> tuple[int, int | None]:
        sign = self.take()
        if sign != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        end = self.text.find("}", self.at)
        low, comma, high = self.text[self.at : end if end >= 0 else self.at].partition(",")
        if not low.isdecimal() or (high and not high.isdecimal()):
            raise self.error("after '{' comes a number, as in {2}, {2,} or {2,3}")
        self.at = end + 1
        bounds = int(low[:6]), (int(high[:6]) if high else None) if comma else int(low[:6])
        if max(bounds[0], bounds[1] or 0) > REPEAT_MAX or (bounds[1] is not None and bounds[1] < bounds[0]):
            raise self.error(f"a repetition goes from less to more, and to {REPEAT_MAX} at most")
        return bounds

    def atom(self) -> Part:
        character = self.take()
        match character:
            case "(":
                return self.group()
            case "[":
                return _one(self.characters())
            case ".":
                return _one(lambda c: c != "\n")
            case "\\":
                return _one(self.escape())
            case "^":
                return _append(_Step(ways=(1,), at_start=True))
            case "$":
                return _append(_Step(ways=(1,), at_end=True))
            case "*" | "+" | "?" | "{":
                self.at -= 1
                raise self.error(f"nothing stands before {character!r} that could be repeated")
        return _one(lambda c: c == character)

    def group(self) -> Part:
        if self.peek() == "?":
            if not self.text.startswith("?:", self.at):
                raise self.error("of groups with '?', only (?:…) is known here")
            self.at += 2
        part = self.alternatives()
        if self.peek() != ")":
            raise self.error("a '(' without its ')'")
        self.at += 1
        return part

    def characters(self) -> Test:
        """Read a class, from after its ``[``."""
        negated = self.peek() == "^"
        self.at += negated
        tests: list[Test] = []
        while not tests or self.peek() != "]":
            first = self.take()
            if first == "\\":
                escaped = self.escape()
                tests.append(escaped)
                continue
            if not first:
                raise self.error("a '[' without its ']'")
            if self.peek() == "-" and self.text[self.at + 1 : self.at + 2] not in ("", "]"):
                self.at += 1
                last = self.take()
                if last == "\\" or last < first:
                    raise self.error("a range goes from one character to a later one")
                tests.append(_between(first, last))
            else:
                tests.append(_between(first, first))
        self.at += 1
        return lambda c: any(test(c) for test in tests) != negated

    def escape(self) -> Test:
        character = self.take()
        if not character:
            raise self.error("nothing comes after the last '\\'")
        known = _CLASSES.get(character)
        if known is not None:
            return known
        literal = {"t": "\t", "n": "\n", "r": "\r"}.get(character, character)
        if literal == character and character.isalnum():
            raise self.error(f"'\\{character}' is not known here")
        return lambda c: c == literal

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self) -> str:
        character = self.peek()
        self.at += len(character)
        return character

    def error(self, why: str) -> PatternInvalid:
        return PatternInvalid(f"{why} (at its character {self.at + 1})")


def _is_word(character: str) -> bool:
    return character == "_" or (character.isascii() and character.isalnum())


_CLASSES: dict[str, Test] = {
    "d": lambda c: c in "0123456789",
    "D": lambda c: c not in "0123456789",
    "w": _is_word,
    "W": lambda c: not _is_word(c),
    "s": lambda c: c in " \t\n\r\f\v",
    "S": lambda c: c not in " \t\n\r\f\v",
}


def _between(first: str, last: str) -> Test:
    return lambda c: first <= c <= last


def _append(step: _Step) -> Part:
    def emit(program: list[_Step]) -> None:
        if len(program) >= PROGRAM_STEPS_MAX:
            raise PatternInvalid(f"it is over {PROGRAM_STEPS_MAX} steps long, repetitions written out")
        program.append(step)

    return emit


def _one(test: Test) -> Part:
    return _append(_Step(test=test))


def _all(parts: list[Part]) -> Part:
    def emit(program: list[_Step]) -> None:
        for part in parts:
            part(program)

    return emit


def _either(branches: list[Part]) -> Part:
    if len(branches) == 1:
        return branches[0]

    def emit(program: list[_Step]) -> None:
        jumps: list[int] = []
        for branch in branches[:-1]:
            split = len(program)
            _append(_Step(ways=(1,)))(program)
            branch(program)
            jumps.append(len(program))
            _append(_Step(ways=(1,)))(program)
            program[split] = _Step(ways=(1, len(program) - split))
        branches[-1](program)
        for jump in jumps:
            program[jump] = _Step(ways=(len(program) - jump,))

    return emit


def _repeat(part: Part, low: int, high: int | None) -> Part:
    def emit(program: list[_Step]) -> None:
        for _ in range(low):
            before = len(program)
            part(program)
            if len(program) == before:
                return  # of nothing, any number is nothing
        if high is None:
            split = len(program)
            _append(_Step(ways=(1,)))(program)
            part(program)
            _append(_Step(ways=(split - len(program),)))(program)
            program[split] = _Step(ways=(1, len(program) - split))
            return
        skips: list[int] = []
        for _ in range(high - low):
            skips.append(len(program))
            _append(_Step(ways=(1,)))(program)
            part(program)
        for skip in skips:
            program[skip] = _Step(ways=(1, len(program) - skip))

    return emit
