"""A disk that loses power, tears writes and fails on demand, under a real node: a file system in userspace.

``model`` is the disk: what a program sees of it, and what of that would be left if the power went now.
``server`` shows a model to the kernel through FUSE; it is a process of its own, because pyfuse3 comes with
the system's Python (Debian: python3-pyfuse3) and not from the lock file: it has no wheels, so `make setup`
would need a compiler. ``disk`` starts that process and tells it what to do.
"""
