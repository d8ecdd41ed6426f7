"""Floor 4: the worker program, its relay, the counters and the channel to the supervisor."""
