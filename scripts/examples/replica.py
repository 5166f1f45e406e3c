"""Keep a copy of some keys in memory: reads are function calls, and always of one revision.

python scripts/examples/replica.py 127.0.0.1:7401,127.0.0.1:7402
"""

import sys

import trio

from journal.client import connect
from journal.versions import Record


def changed(key: bytes, record: Record | None) -> None:
    print("changed:", key, record.value if record else "deleted")


async def main(endpoints: str) -> None:
    async with connect(endpoints) as journal:
        await journal.put(b"example/replica/a", b"1")
        async with journal.replica(b"example/replica/") as replica:
            print("at revision", replica.revision, "with", len(replica), "keys")
            replica.subscribe(changed)
            revision = await journal.put(b"example/replica/b", b"2")
            revision = await journal.delete(b"example/replica/a")
            await replica.wait_for(revision)  # read your writes
            for key, record in replica.scan():
                print(key, record.value)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
