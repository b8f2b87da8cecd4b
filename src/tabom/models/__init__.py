"""The only room that knows an architecture."""
