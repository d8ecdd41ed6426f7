"""The vocabulary as values: frozen, pure, valid once built. No I/O, no clock, no asyncio."""
