"""Teachers: models that vote System 1 or System 2 on an example."""
