"""We speak with peers that nobody here wrote: js-libp2p and go-libp2p, as real processes."""
