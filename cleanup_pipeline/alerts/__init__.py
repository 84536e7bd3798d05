"""Alerts: what people must hear of, derived from what Dagster's storage knows, and told until it is acknowledged."""
