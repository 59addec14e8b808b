"""Tensors in, tensors out: the stream, its schedules and guidance, the procedural world, the embedded model.

Knows nothing of sockets, shared memory, threads or the command line.
"""
