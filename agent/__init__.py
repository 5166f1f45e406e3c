"""What runs tasks on one machine and says what became of them.

* ``reconcile``: what to do next, from what is desired and what is there. PURE, as are ``model`` (its
  words), ``lifecycle`` (several containers), ``admission`` (room), ``statuses`` (reports), ``health``.
* ``folder``: the agent's folder: its identity, and each task written down before it is acted on.
* ``runtime``: the port to whatever runs a container, and the in-memory one for tests.
* ``process``, ``process_spec``, ``supervisor``, ``cgroups``, ``ports``: containers as processes.
* ``docker``, ``docker_spec``, ``docker_api``, ``docker_credentials``: containers at a Docker engine.
* ``loop``, ``presence``, ``machine``: registration, lease, tail, actions, reports.
* ``introspection``: what it tells programs on its machine. ``places``, ``attach``: into a task.
* ``main``: the program.

Running tasks outlive the agent, and the journal being away.
"""
