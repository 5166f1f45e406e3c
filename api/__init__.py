"""The front door: the ECS API (JSON 1.1), as boto3 and aws-cli speak it.

Where to look:

* ``wire``, ``shapes``, ``errors``, ``arns``, ``pages``: the protocol's rules. PURE.
* ``model``: ECS's own service model, as botocore ships it, which says what each call holds.
* ``live``: the cluster's state in this process, and the rules of reading your own writes.
* ``calls``: what a handler is given. ``operations``: which handler serves which call.
* one module for each family of resources: ``clusters``, ``instances``, ``tasks``...
* ``app``: from a request to its answer; ``server``, ``main``: the program.

The process is stateless: any number of them may run, and any may end at any time.
"""
