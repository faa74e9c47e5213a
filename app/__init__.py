"""The self-sorting wardrobe's service: loads what training exported and answers over HTTP."""

__version__ = "0.1.0"
