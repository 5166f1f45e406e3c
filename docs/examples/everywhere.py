"""One task on every instance that an expression means, as long as it means it.

    python docs/examples/everywhere.py 127.0.0.1:7401,127.0.0.1:7402 logs:1 'attribute:rack == r1'

Run as many copies as you like: each instance gets one task all the same.
"""

import sys

import trio

from schedulers.sdk import open_scheduler


async def main(endpoints: str, definition: str, expression: str) -> None:
    async with open_scheduler("everywhere", endpoints) as scheduler:
        async for _state in scheduler.changes():
            wanted = scheduler.instances(expression)
            for slot in scheduler.tasks():
                if slot not in wanted:
                    await scheduler.stop(slot, "the expression does not mean its instance any more")
            for instance in wanted:
                if scheduler.is_free(instance):
                    why = await scheduler.fill(instance, scheduler.definition(definition), on=instance)
                    if not why:
                        print(f"{instance} has a task", flush=True)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
