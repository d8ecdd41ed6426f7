"""The throw-away lab of network namespaces, and `lbd demo`, which balances real traffic in it."""
