"""Services that lack one defence each, so that the fault tests are seen to fail without it.

`python -m tests.chaos.without.<defence>` runs one. They are the service itself with one class of another kind; nothing
of them is in what ships.
"""
