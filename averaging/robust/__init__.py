"""Against members that lie about their values: robust rules of combining, and limits on norms."""
