"""A coroutine that begins at once, and needs no task.

A task takes its first step when asyncio's loop comes round next, and every further one a round after what it
waits for. That is one round too many for a message that is ready to be written now: what gRPC's ``write``
does before it first waits is to put the message on the wire. (Python 3.12 has eager tasks for this.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


def begin(coroutine: Coroutine[Any, Any, object], ended: Callable[[BaseException | None], None]) -> None:
    """Run ``coroutine`` as far as it goes without waiting, and the rest as what it waits for is done.

    ``ended`` gets its error, or None: maybe before this returns. It must not raise. To be called within
    asyncio's loop; the coroutine must not ask for its task, as it has none.
    """

    def step(_awaited: object = None) -> None:
        try:
            awaited = coroutine.send(None)
        except StopIteration:
            ended(None)
        except BaseException as error:  # CancelledError, too: what it awaited was cancelled
            ended(error)
        else:
            if awaited is None:  # ``sleep(0)``
                asyncio.get_running_loop().call_soon(step)
            else:
                awaited._asyncio_future_blocking = False  # as a task does: it says that somebody saw it
                awaited.add_done_callback(step)

    step()
