"""Methods that need some labels, and the bound that has all of them."""
