"""The modules that mypyc compiles: plain typed Python, no dataclasses, nothing that a border crosses."""
