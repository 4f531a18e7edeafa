"""The self-training loop and its adapters."""
