"""Processes, sockets, clocks and shared memory around `core`. Performs no tensor operation itself."""
