"""An embedded PostgreSQL with After Hours' tables and synthetic rows, to look at the pipeline and to test it."""
