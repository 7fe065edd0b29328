"""`hermetic demo`: the bug, then the same through Hermetic, then the proof."""
