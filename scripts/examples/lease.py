"""Hold a lease: keys that vanish when their owner does.

python scripts/examples/lease.py 127.0.0.1:7401,127.0.0.1:7402
"""

import sys

import trio

from journal.client import LeaseLost, connect
from journal.offers import LeaseRevoke, Offer


async def main(endpoints: str) -> None:
    async with connect(endpoints) as journal:
        async with journal.lease(ttl_s=2.0) as lease:
            await journal.put(b"example/lease/alive", b"me", lease=lease.id)
            await trio.sleep(3.0)  # it is kept alive in the background
            print("sure to be alive:", lease.sure, await journal.get(b"example/lease/alive") is not None)
        print("after the block:", await journal.get(b"example/lease/alive"))

        # Where the lease is lost, the block is cancelled: its work must not go on without it.
        try:
            async with journal.lease(ttl_s=1.0) as lease:
                await journal.offer(Offer((LeaseRevoke(lease.id),)))  # somebody ends it
                await trio.sleep_forever()
        except LeaseLost as lost:
            print(lost)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
