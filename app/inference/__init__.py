"""From the bytes of images to decisions: decode, choose the model, batch, run, decide. Knows no HTTP."""
