"""Adaptors to other programs' shared memory and their OSC dialects."""
