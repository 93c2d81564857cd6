"""The rankers that `benchmarks.accuracy` compares ours with."""
