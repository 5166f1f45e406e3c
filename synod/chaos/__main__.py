"""``python -m synod.chaos``: see ``synod.chaos.run``."""

from __future__ import annotations

import sys

from synod.chaos.run import main

if __name__ == "__main__":
    sys.exit(main())
