"""Floor 2: pure balancing algorithms, compiled by mypyc."""
