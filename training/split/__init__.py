"""Split learning: one party holds the inputs and the first layers, another the rest."""
