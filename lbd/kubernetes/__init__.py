"""Kubernetes: watches a cluster's Services and endpoints, and publishes what they ask for."""
