"""One model in one process: the only part of Hermetic that imports torch."""
