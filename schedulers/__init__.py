"""What decides where tasks go, and the loops that offer it.

* ``placement``: which instance takes a task, and why another does not. PURE.
* ``run_task``: places tasks once, one offer a task, and follows them.

Any number of schedulers may run at once, with no election: conflicts sort it out.
"""
