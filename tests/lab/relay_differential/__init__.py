"""Runs generated conversations on a direct connection and through the relay, and compares what both ends saw."""
