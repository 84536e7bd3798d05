"""`python -m cleanup_pipeline.cli`."""

from cleanup_pipeline.cli import main

main()
