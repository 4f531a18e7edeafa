"""What the endpoint is made of; `serve/` holds its Ray Serve deployment."""
