"""From a Service, its endpoints and its rule to virtual services. Pure."""
