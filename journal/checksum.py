"""The checksum of everything durable: CRC-32, as in zlib (polynomial 0x04C11DB7, reflected). PURE.

ISA-L has the same with the processor's own multiplication: of a record of 320 bytes in 70 ns in place of 200,
of 40 KB in 0.8 µs in place of 9.9. Where there is no build of it, zlib's does: what is written is the same.
"""

from __future__ import annotations

try:
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

__all__ = ["crc32"]
