"""Check what import contracts cannot see in the pure modules: calls that reach outside.

``import random`` is fine there for ``random.Random`` as a type, and ``datetime`` for its
arithmetic; ``random.random()`` and ``datetime.now()`` are not. Builtins that read or write
the world are not fine either, nor is ``hash``, which differs between processes for strings and
bytes. The modules are those of the contract "pure" in ``pyproject.toml``: one list for both checks.

Run: ``python scripts/purity.py`` (``make check`` does). Prints each breach; exit code 1 if any.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

BUILTINS = {"open", "print", "input", "exec", "eval", "breakpoint", "hash", "__import__"}
ONLY = {"random": {"Random"}}
"""Of these modules only the named attributes may be used."""
NEVER = {"now", "utcnow", "today"}
"""Attributes of datetime's classes that read the clock."""


def breaches(source: str) -> Iterator[tuple[int, str]]:
    """Yield (line, what) for each impure use in ``source``."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in BUILTINS:
                yield node.lineno, f"calls {name}()"
            case ast.Attribute(value=ast.Name(id=module), attr=attr) if attr not in ONLY.get(module, {attr}):
                yield node.lineno, f"uses {module}.{attr}"
            case ast.ImportFrom(module=str(module), names=names) if module in ONLY:
                for alias in names:
                    if alias.name not in ONLY[module]:
                        yield node.lineno, f"imports {module}.{alias.name}"
            case ast.Import(names=names):
                for alias in names:
                    if alias.asname and alias.name in ONLY:
                        yield node.lineno, f"imports {alias.name} under another name"
            case ast.Call(func=ast.Attribute(value=value, attr=attr)) if attr in NEVER and _is_datetime(
                value
            ):
                yield node.lineno, f"reads the clock: {ast.unparse(node.func)}()"


def _is_datetime(value: ast.expr) -> bool:
    return ast.unparse(value).split(".")[-1] in {"datetime", "date"}


def pure_files(root: Path) -> list[Path]:
    """Return the source files of the modules that the contract "pure" names."""
    config = tomllib.loads((root / "pyproject.toml").read_text())
    contracts = config["tool"]["importlinter"]["contracts"]
    [modules] = [contract["source_modules"] for contract in contracts if contract["id"] == "pure"]
    files: list[Path] = []
    for module in modules:
        path = root / module.replace(".", "/")
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    return files


def main() -> int:
    files = pure_files(ROOT)
    found = [
        f"{file.relative_to(ROOT)}:{line}: {what}"
        for file in files
        for line, what in breaches(file.read_text())
    ]
    print("\n".join(found) if found else f"Pure: {len(files)} modules checked.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
