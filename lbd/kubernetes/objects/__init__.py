"""Kubernetes' objects as values, how they are read, and which of them are ours. Pure."""
