"""The checksum: whoever makes it, what is written is the same."""

from __future__ import annotations

import subprocess
import sys
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st

from journal.checksum import crc32

WITHOUT_ISAL = (
    "import sys; sys.modules['isal'] = None; from journal.checksum import crc32; print(crc32.__module__)"
)


@settings(deadline=None)
@given(st.binary(max_size=5000), st.integers(0, 2**32 - 1))
def test_it_is_that_of_zlib(data: bytes, start: int) -> None:
    assert crc32(data) == zlib.crc32(data)
    assert crc32(data, start) == zlib.crc32(data, start)


def test_where_isal_is_not_there_zlib_makes_it() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_ISAL], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "zlib"
