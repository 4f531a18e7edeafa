"""fit: the one way to train and to score; loop: plain torch; ray: Ray Train around the loop."""
