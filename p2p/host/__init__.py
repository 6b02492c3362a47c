"""The machinery of connections: the only folder that imports py-libp2p."""
