"""The command `manyhands`: what people type, and what they see."""
