"""Passes over large data: Ray Data over documents and files, by as many processes as there is room for."""
