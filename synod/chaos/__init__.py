"""Harm done on purpose to real node processes under a recorded load, and the verdict on what came of it.

``python -m synod.chaos`` (``make chaos``) runs in namespaces of its own: ``run`` is the program,
``schedule`` draws from a seed what happens, ``arena`` holds the cluster and its clients, ``faults`` do
and undo the harm, ``network`` is where nodes can be cut off, ``timeline`` and ``page`` draw the report.
``live`` is the milder part for a local cluster: ``synod up --chaos``.
"""
