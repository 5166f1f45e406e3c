"""``python -m synod.history FILE...``: check the recorded history in these files."""

from __future__ import annotations

import sys
from pathlib import Path

from synod.history import HistoryInvalid, check, load

EXIT_MISUSE = 64


def main(arguments: list[str]) -> int:
    """Print the report. 0: all holds; 1: a violation; 64: the files say too little to judge."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__, file=sys.stderr)
        return 0 if arguments else EXIT_MISUSE
    try:
        report = check(load(Path(argument) for argument in arguments))
    except (HistoryInvalid, OSError) as error:
        print(f"cannot check: {error}", file=sys.stderr)
        return EXIT_MISUSE
    print(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
