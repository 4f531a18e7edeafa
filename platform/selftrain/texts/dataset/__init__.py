"""A training set that a language model writes for class names (`selftrain generate`)."""
