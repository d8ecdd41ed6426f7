"""The probes: one module per monitor type; each performs one check and returns its result."""
