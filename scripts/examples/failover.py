"""Exactly once, while the leadership moves: the client finds the leader and resubmits by id.

python scripts/examples/failover.py 127.0.0.1:7401,127.0.0.1:7402
"""

import sys

import trio

from journal.client import Journal, OfferUnknown, Unavailable, connect


async def write(journal: Journal, number: int, accepted: set[bytes]) -> None:
    for i in range(50):
        key = b"example/failover/%d/%d" % (number, i)
        try:
            await journal.put(key, b"", timeout_s=10.0)
            accepted.add(key)
        except OfferUnknown as unknown:  # no answer in time: ask what became of it
            if await journal.outcome(unknown.id, timeout_s=30.0) is not None:
                accepted.add(key)
        except Unavailable as error:
            print("not committed, and will not be:", error)


async def main(endpoints: str) -> None:
    async with connect(endpoints) as journal, journal.tail(prefixes=[b"example/failover/"]) as tail:
        accepted: set[bytes] = set()
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(write, journal, number, accepted)
            await journal.transfer_leadership()
        committed = []
        while tail.revision < journal.seen:
            committed += [change.key for commit in (await anext(tail)).commits for change in commit.changes]
        print("each exactly once:", sorted(committed) == sorted(accepted), len(accepted), "offers")


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
