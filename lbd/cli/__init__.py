"""Floor 7: the commands, and the one place where everything is composed."""
