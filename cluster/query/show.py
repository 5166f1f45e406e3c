"""An expression as text: ``parse(show(expression)) == expression``. PURE."""

from __future__ import annotations

from cluster.query.ast import And, Compare, Exists, Expression, In, Not, Or


def show(expression: Expression) -> str:
    """Return the text of an expression, with no more parentheses than it needs."""
    match expression:
        case Or(items):
            return " or ".join(_grouped(item) if isinstance(item, Or) else show(item) for item in items)
        case And(items):
            return " and ".join(
                _grouped(item) if isinstance(item, (And, Or)) else show(item) for item in items
            )
        case Not(item):
            return f"not {_grouped(item) if isinstance(item, (And, Or)) else show(item)}"
        case Exists(subject, negated):
            return f"{subject} {'!exists' if negated else 'exists'}"
        case In(subject, values, negated):
            return f"{subject} {'!in' if negated else 'in'} [{', '.join(map(quoted, values))}]"
        case Compare(subject, operator, value):
            return f"{subject} {operator} {quoted(value)}"


def quoted(value: str) -> str:
    """Return a literal. One that holds both kinds of quotes is written bare: it cannot be quoted."""
    if "'" not in value:
        return f"'{value}'"
    return f'"{value}"' if '"' not in value else value


def _grouped(expression: Expression) -> str:
    return f"({show(expression)})"
