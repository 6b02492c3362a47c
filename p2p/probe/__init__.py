"""What peers tell each other for their owners: who they are, how far away, and how fast."""
