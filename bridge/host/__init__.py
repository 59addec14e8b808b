"""The loop that runs a stream on the frames of a channel."""
