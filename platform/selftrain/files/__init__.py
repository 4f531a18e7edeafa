"""Files that are whole or not there at all, and bounded readers of what others wrote."""
