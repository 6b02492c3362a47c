"""Tasks: classification, language models, and pictures without labels."""
