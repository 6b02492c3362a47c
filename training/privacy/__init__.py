"""What peers keep from each other while they train or ask: see each module's threats."""
