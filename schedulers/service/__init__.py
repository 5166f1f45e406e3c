"""The service scheduler: keeps services at what people want of them, with no election.

``reconcile(state, cluster, service, ...) -> Step`` is PURE, and everything it decides at once
becomes ONE offer (``offer``): the tasks it starts, the tasks it stops, the tasks whose end it takes
note of, and what is remembered of the rollout. The rules:

**Any number of copies.** Every step stands on the service's index being unchanged (a range
condition on ``cluster/<c>/service/<s>/task/``), and every step changes the index: a start puts an
entry, a stop marks its entry, a task's end deletes it. It stands on the service's record and on its
rollout record too. So the steps of one service are one sequence, whoever makes them: of two copies
that decide from the same revision one wins, and the other sees the new state and decides again.
Nothing is placed twice, no end is counted twice, no event is told twice.

**Bounds.** With D = desiredCount, never less than ``ceil(D * minimumHealthyPercent / 100)``
healthy tasks by a decision of ours, never more than ``floor(D * maximumPercent / 100)`` tasks that
take up room (PENDING, RUNNING or stopping). A task is healthy that is RUNNING on a connected
instance, and HEALTHY where its definition has a health check.

**Order.** What leaves (an older deployment's task, one on a draining instance, one too many) is
replaced first and stopped after, as far as the maximum lets it; where the maximum or the cluster
has no room, healthy tasks are stopped down to the minimum to make some. What is not healthy anyway
is stopped first and at once.

**Failures.** A task that ends by itself before it ran ``SHORT_RUN_S`` has failed. The delay before
a deployment starts another grows with its failures in a row, up to a limit. With the circuit
breaker on, a deployment that fails ``max(3, min(200, ceil(D / 2)))`` times before it is complete is
FAILED; with rollback, the last completed one becomes PRIMARY again.

**Loss.** Tasks of an instance whose agent is away count as taking up room, and are neither healthy
nor replaced, until the grace period is over or the instance is deregistered. Then they are asked to
stop (whenever their agent comes back it stops them), and no longer count.

Modules, all PURE but the last: ``bounds`` (numbers), ``rolling`` (which tasks to start and stop),
``rollout`` (failures, breaker, completion), ``events`` (what people read), ``view`` (records to
members), ``losses`` (grace), ``reconcile``, ``offer``; ``loop`` runs them.
"""
