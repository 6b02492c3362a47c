"""How peers that were given no address find each other."""
