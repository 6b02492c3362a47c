"""What it costs to keep something private: one module for each way, each returns rows and budgets."""
