"""From the bytes of images to labels: decode, batch, run. Knows no HTTP."""
