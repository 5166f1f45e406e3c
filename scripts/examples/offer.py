"""Offer transactions, and read the receipt of one that is rejected.

python scripts/examples/offer.py 127.0.0.1:7401,127.0.0.1:7402
"""

import sys

import msgpack
import trio

from journal.client import OfferRejected, connect
from journal.offers import Adjust, Offer, Put


async def main(endpoints: str) -> None:
    async with connect(endpoints) as journal:
        print("put at revision", await journal.put(b"example/offer/greeting", b"hello"))

        # Conditions and mutations of one offer: all of it happens, or nothing.
        key = b"example/offer/capacity"
        await journal.put(key, msgpack.packb({"cpu": 4}))
        claim = Offer(
            mutations=(Adjust(key, {"cpu": -3}, minimum={"cpu": 0}), Put(b"example/offer/task", b"runs")),
            label="place a task of 3 cpu",
        )
        print("claimed 3 of 4 cpu at revision", await journal.offer(claim))
        try:
            await journal.offer(claim)
        except OfferRejected as rejected:
            print("the second claim is refused:", rejected.receipt)

        # Many offers travel in few messages, and each has a verdict of its own.
        offers = [Offer((Put(b"example/offer/%d" % i, b""),)) for i in range(1_000)]
        verdicts = await journal.offer_many(offers)
        accepted = sum(isinstance(verdict, int) for verdict in verdicts)
        print(accepted, "of", len(offers), "accepted, in", journal.counters.messages, "messages")


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
