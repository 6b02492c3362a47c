"""How runs of the flat vector become bytes for the network, and values again."""
