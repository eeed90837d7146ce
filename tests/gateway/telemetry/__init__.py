"""Series and traces of a running gateway."""
