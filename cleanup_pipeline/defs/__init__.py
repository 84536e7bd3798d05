"""Dagster's side: the definitions, each kind where a Dagster engineer looks for it."""
