"""The one state of this process, fed by one tail; and what a reader may count on.

* *Read your writes*: ``reached(revision)`` returns once the state stands there; every handler
  that has written waits for that before it answers.
* *Read everybody's writes*: ``latest()`` asks the journal at which revision it stands, and waits for
  that. Then whatever was answered before, by this process or by any other, is seen. The
  question is one round to the journal; those who come while one is on its way share the next, so
  its cost does not grow with the number of readers. The answer itself comes from memory.
"""

from __future__ import annotations

import trio

from api.errors import server
from cluster.feed import SharedFeed
from cluster.state import ClusterState
from journal.client import Journal, JournalError

ASK_TIMEOUT_S = 5.0
WAIT_TIMEOUT_S = 10.0


class LiveState:
    """A shared state, and the question to the journal whether it is the newest.

    Between two awaits nothing changes it: what a handler computes without awaiting is of one revision.
    """

    def __init__(self, journal: Journal, feed: SharedFeed) -> None:
        self._journal = journal
        self._feed = feed
        self._question: _Question | None = None
        self._wanted = trio.Event()

    @property
    def state(self) -> ClusterState:
        return self._feed.state

    async def reached(self, revision: int) -> ClusterState:
        """Return the state once it stands at ``revision`` or later. Raises ``ApiError`` after a while."""
        with trio.move_on_after(WAIT_TIMEOUT_S):
            return await self._feed.reached(revision)
        raise server(
            f"This process has not caught up with the journal's revision {revision} "
            f"within {WAIT_TIMEOUT_S:g} s; it stands at {self.state.revision}."
        )

    async def latest(self) -> ClusterState:
        """Return the state once it stands where the journal stood when this was called, or later.

        Raises ``ApiError`` where the journal does not say where it stands.
        """
        question = self._question = self._question or _Question()
        self._wanted.set()
        await question.answered.wait()
        if question.trouble:
            raise server(f"The journal does not answer: {question.trouble}")
        return await self.reached(question.revision)

    async def run(self) -> None:
        """Ask the journal where it stands until cancelled, each time for all who wait by then."""
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            question, self._question = self._question, None
            assert question is not None
            try:
                question.revision = await self._journal.revision(timeout_s=ASK_TIMEOUT_S)
            except JournalError as error:
                question.trouble = str(error)
            question.answered.set()


class _Question:
    """One round to the journal, and its answer."""

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.revision = 0
        self.trouble = ""
