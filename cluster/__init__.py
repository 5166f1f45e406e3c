"""What the cluster is, written on the journal: the vocabulary that schedulers and agents share.

* ``keys``: where each record lives, and who writes it. PURE.
* ``codec``, ``records``: the records, msgpack maps with ECS's field names. PURE.
* ``transitions``: which changes of status are legal, as tables. PURE.
* ``offers``: every change of the cluster as one offer. PURE.
* ``state``: ``ClusterState``, folded from commits: what a scheduler looks at; ``views``,
  ``indexes`` and ``tables`` are its parts. PURE.
* ``query``: the cluster query language. PURE.
* ``feasible``: which instances can take a task, and why not the others. PURE.
* ``feed``: keeps a ``ClusterState`` up to date from a tail.
* ``sql``: the state as a database that only reads.
* ``ops``: what people do: stop a task, drain an instance, look something up.

Nothing here decides where a task goes (``schedulers``) or runs one (``agent``).
"""
