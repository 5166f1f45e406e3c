"""Follow the history: every commit once, in order, whatever happens to the nodes.

python scripts/examples/tail.py 127.0.0.1:7401,127.0.0.1:7402
"""

import sys

import trio

from journal.client import Journal, connect


async def write(journal: Journal) -> None:
    for i in range(5):
        await journal.put(b"example/tail/%d" % i, b"value %d" % i, label=f"step {i}")


async def main(endpoints: str) -> None:
    async with connect(endpoints) as journal, trio.open_nursery() as nursery:
        # After a revision; without one, from now on. No prefix: all keys.
        async with journal.tail(prefixes=[b"example/tail/"]) as tail:
            nursery.start_soon(write, journal)
            seen = 0
            async for message in tail:
                # A message covers the revisions first to last without a gap, so a program that
                # keeps ``tail.revision`` beside its own state can go on from there after a restart.
                for commit in message.commits:
                    seen += 1
                    changes = [(change.key, change.value) for change in commit.changes]
                    print(commit.revision, commit.label, changes)
                if seen == 5:
                    break
        print("read up to revision", tail.revision)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
