"""`manyhands bench compression`: two papers on compressed gradients, and slow uplinks."""
