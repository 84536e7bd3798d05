"""The gate: when the nightly run may start. Signals and runs in, one decision out."""
