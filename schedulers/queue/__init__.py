"""The queue of runs that wait for capacity: ``synod run --wait-for-capacity``.

A queued run is a record in the journal (``cluster/<c>/queue/<run>``), so it waits whoever comes and
goes. Any number of copies of the scheduler place from it: what a run is given is one offer with the
run's own record, at the revision that it was seen at, so no task of it is placed twice, and its
n-th task always has the same id (``task_id``), so who queued it knows what to look for.

* ``order`` PURE: whose turn it is. Higher priority first; within a priority the owners take turns,
  task by task, and an owner's own runs go by age.
* ``reconcile`` PURE: what can be placed now. A run that finds no room is passed over, so that small
  ones use what a large one cannot, until it has waited ``HOLD_S``: then nothing of its priority or
  below is placed before it, or it would wait for ever.
* ``loop`` runs it.
"""
