"""The story of one run, and what it keeps so that it can be resumed."""
