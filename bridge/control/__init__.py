"""Live parameters, statistics, OSC and who may send: what steers a host from outside."""
