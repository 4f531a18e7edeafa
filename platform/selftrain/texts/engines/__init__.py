"""One file an engine that writes texts."""
