"""Floor 6: the loop that turns desired state into actions."""
