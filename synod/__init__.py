"""The command line, and the local cluster that it starts.

``cli`` is the face: click commands, each in a module named after what it is about. ``local``
starts and stops real node and agent processes; the chaos tests, the benchmark and the demo
stand on it too. Nothing here decides anything about consensus, the space or placement.
"""

from __future__ import annotations

__version__ = "0.1.0"
