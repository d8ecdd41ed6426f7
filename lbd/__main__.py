"""`python -m lbd`: the same as the `lbd` command."""

from lbd.cli.main import main

main()
