"""How a rule is carried out: preflight, judgement, fuse, window, pace, lock, result. Knows PostgreSQL, not Dagster."""
