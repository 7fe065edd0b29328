"""`hermetic doctor`: looks at everything that a first run needs, changes nothing."""
