"""The command line ``synod``.

Each command is in a module named after what it is about, and imports what is heavy (gRPC, trio,
rich) only when it runs: ``synod --help`` must not wait for them. Programs read standard output
(with ``--json``) and the exit code; what is for people only goes to standard error.

Exit codes: 0 done, 1 failed, 2 rejected (an offer's condition did not hold), 3 unavailable (no
cluster, no leader, no answer in time), 64 misuse (wrong arguments or malformed input), 130
interrupted.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit. The console script's entry point."""
    from synod.cli.app import run

    sys.exit(run())
