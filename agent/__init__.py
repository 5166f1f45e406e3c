"""What runs tasks on one machine and says what became of them.

* ``reconcile``: what to do next, from what is desired and what is there. PURE.
* ``folder``: the agent's folder: its identity, and each task written down before it is acted on.
* ``runtime``: the port to whatever runs a container, and the in-memory one for tests.
* ``process``, ``supervisor``: containers as processes of this machine.
* ``loop``: registration, lease, tail, actions, reports.
* ``main``: the program.

Running tasks outlive the agent, and the journal being away.
"""
