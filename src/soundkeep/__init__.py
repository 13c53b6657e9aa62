"""Soundkeep: an open, self-hosted store for call recordings."""

__version__ = "0.1.0"
