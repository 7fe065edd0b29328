"""`hermetic bench`: the benchmark of the bug report, made complete."""
