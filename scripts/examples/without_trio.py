"""The same client for scripts and notebooks: plain function calls, no ``async``.

python scripts/examples/without_trio.py 127.0.0.1:7401,127.0.0.1:7402
"""

import sys

from journal.sync import SyncTransaction, connect


def increment(transaction: SyncTransaction) -> int:
    count = int(transaction.get(b"example/sync/count") or b"0") + 1
    transaction.put(b"example/sync/count", b"%d" % count)
    return count


def main(endpoints: str) -> None:
    with connect(endpoints) as journal:
        revision = journal.put(b"example/sync/a", b"1")
        record = journal.get(b"example/sync/a")
        print("put at", revision, "and read:", record.value if record else None)
        print("counted to", [journal.transact(increment) for _ in range(3)])

        with journal.lease(ttl_s=5.0) as lease:
            journal.put(b"example/sync/alive", b"", lease=lease.id)
        print("gone with its lease:", journal.get(b"example/sync/alive"))

        with journal.tail(after=revision - 1) as tail:
            for message in tail:
                print("revisions", message.first, "to", message.last)
                if message.last >= journal.seen:
                    break


if __name__ == "__main__":
    main(sys.argv[1])
