"""The embedded models and the program that trained them. Importing this loads no torch."""

from pathlib import Path

MODELS = Path(__file__).parent / "models"
"""The folder that holds one sub-folder per embedded model."""
