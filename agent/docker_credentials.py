"""Credentials of registries, as ``docker login`` leaves them."""

from __future__ import annotations

import base64
import binascii
import json
import os
from pathlib import Path


def read_credentials(path: Path | None = None) -> dict[str, dict[str, str]]:
    """Return user and password by registry, of ``config.json``; {} where there is none.

    ``DOCKER_CONFIG`` names its folder, by default ``~/.docker``. Credential helpers are not asked.
    """
    if path is None:
        path = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"
    try:
        auths = json.loads(path.read_text("utf-8")).get("auths", {})
    except (OSError, ValueError, AttributeError, RuntimeError):
        return {}
    found: dict[str, dict[str, str]] = {}
    for registry, entry in auths.items():
        try:
            user, colon, password = base64.b64decode(entry["auth"]).decode().partition(":")
        except (KeyError, TypeError, ValueError, binascii.Error):
            continue
        if colon:
            found[registry] = {"username": user, "password": password, "serveraddress": registry}
    return found
