"""The models that are trained, and where model folders come from."""
