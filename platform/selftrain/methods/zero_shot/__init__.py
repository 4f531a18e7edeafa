"""Methods that need class names alone."""
