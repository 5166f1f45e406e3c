"""Read, decide, write: committed only if what was read still holds, otherwise run again.

python scripts/examples/transact.py 127.0.0.1:7401,127.0.0.1:7402
"""

import sys

import trio

from journal.client import Transaction, connect


async def transfer(transaction: Transaction) -> int:
    """Move one coin. It may run several times, so it has no effect but through ``transaction``."""
    transaction.label = "transfer"
    ann = int(await transaction.get(b"example/coins/ann") or b"0")
    bob = int(await transaction.get(b"example/coins/bob") or b"0")
    if ann == 0:
        raise ValueError("ann has no coins left")  # nothing is committed
    transaction.put(b"example/coins/ann", b"%d" % (ann - 1))
    transaction.put(b"example/coins/bob", b"%d" % (bob + 1))
    return ann - 1


async def main(endpoints: str) -> None:
    async with connect(endpoints) as journal:
        await journal.put(b"example/coins/ann", b"10")
        await journal.put(b"example/coins/bob", b"0")
        async with trio.open_nursery() as nursery:
            for _ in range(10):  # all at once: they collide, and yet no coin is lost
                nursery.start_soon(journal.transact, transfer)
        reply = await journal.get_many([b"example/coins/ann", b"example/coins/bob"])
        print("ann, bob:", [record.value for record in reply.records if record])
        print("conflicts on the way:", journal.counters.conflicts)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
