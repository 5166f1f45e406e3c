"""What is wrong with an expression, and where. PURE."""

from __future__ import annotations

TEXT_CHARACTERS_MAX = 2_000
SHOWN_CHARACTERS = 60


class QueryInvalid(ValueError):
    """An expression that cannot be read. ``position`` counts characters from 0."""

    def __init__(self, text: str, position: int, why: str) -> None:
        super().__init__(text, position, why)
        self.text = text
        self.position = position
        self.why = why

    @property
    def place(self) -> str:
        """Return the text around the place, and a caret under it."""
        start = max(0, self.position - SHOWN_CHARACTERS // 2)
        shown = "".join(c if c.isprintable() else " " for c in self.text[start : start + SHOWN_CHARACTERS])
        return f"{shown}\n{' ' * (self.position - start)}^"

    def __str__(self) -> str:
        return f"{self.why} at character {self.position + 1}:\n{self.place}"
