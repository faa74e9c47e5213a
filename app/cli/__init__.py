"""The command line: `wardrobe`, and `python -m app` the same. Nothing else in app imports it."""
