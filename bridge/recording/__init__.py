"""Recordings of a channel: what both rings showed, the parameters and the times, in one MCAP file; and back."""
