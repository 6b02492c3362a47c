"""`manyhands doctor`: whether this computer can take part, why not, and what to do about it."""
