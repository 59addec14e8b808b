"""What `bench faults` does to rings and hosts, a file for each kind of attack."""
