"""`manyhands dht`: read, write, follow and count what a swarm's DHT holds."""
