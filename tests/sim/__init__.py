"""The deterministic simulator: whole clusters of production code, from one seed, in one thread.

See ``docs/simulation.md``. ``python -m tests.sim --help`` runs it; the modules:

* ``determinism``  what makes trio replay; the only place that knows its private names
* ``options``      what is drawn for a run: cluster, limits, faults and their rates
* ``world``        the agenda (one heap of what happens when), the log, violations
* ``clock``, ``network``, ``disk``, ``edge``   the four things a node or client touches, made faulty
* ``host``         a node's life: start, crash, power loss, pause
* ``faults``       what goes wrong while the storm lasts
* ``workload``     what the clients do
* ``watch``        the checkers that look at every fold, message, write and answer
* ``recorder``     the clients' history in memory, for ``synod.history``
* ``run``          one run: storm, fair weather, verdict
* ``report``       what a person sees of a failed run
* ``mutants``      planted bugs, and the seeds that catch them
"""
