"""Keeps the After Hours part of a dating app's PostgreSQL database clean, every night, through Dagster."""
