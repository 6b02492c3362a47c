"""The benchmarks behind `manyhands bench`: real processes, rivals in the same run, one report."""
