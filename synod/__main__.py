"""``python -m synod``: the same as the command ``synod``."""

from __future__ import annotations

from synod.cli import main

if __name__ == "__main__":
    main()
