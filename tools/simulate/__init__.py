"""`manyhands simulate`: peers that train in an internet of network namespaces, from a file."""
