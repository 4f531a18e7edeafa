"""The Ray Serve application, imported as `selftrain_serve`."""
