"""Which Service gets which addresses. Pure."""
