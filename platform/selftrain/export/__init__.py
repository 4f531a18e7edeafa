"""Names that stored files use: models logged before the room `bundle` existed name `selftrain.bundle.pyfunc` as their loader."""
