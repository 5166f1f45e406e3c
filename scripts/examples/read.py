"""Read: linearizable, at least at a revision, local; the past; a range page by page.

python scripts/examples/read.py 127.0.0.1:7401,127.0.0.1:7402
"""

import sys

import trio

from journal.client import LOCAL, at_least, connect
from journal.offers import Offer, Put, prefix_range


async def main(endpoints: str) -> None:
    async with connect(endpoints) as journal:
        old = await journal.put(b"example/read/colour", b"red")
        new = await journal.put(b"example/read/colour", b"blue")

        # Linearizable (the default): shows every offer that was answered before this call.
        record = await journal.get(b"example/read/colour")
        assert record is not None
        print(record.value, "version", record.version, "since revision", record.mod)

        # Cheaper, from any node: as new as one's own write; or whatever the node has. In both
        # cases this client never gets an older answer than it has had before.
        for consistency in (at_least(new), LOCAL):
            reply = await journal.get_many([b"example/read/colour"], consistency=consistency)
            print(consistency.level.value, "read at revision", reply.revision)

        past = await journal.get(b"example/read/colour", at=old)
        print("it was", past.value if past else None)

        # A range, all of one revision, though it is overwritten meanwhile.
        await journal.offer_many([Offer((Put(b"example/read/k/%04d" % i, b""),)) for i in range(5_000)])
        async for page in journal.scan_pages(*prefix_range(b"example/read/k/")):
            print("page of", len(page.items), "keys at revision", page.revision)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
