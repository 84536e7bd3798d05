"""The job that carries out every rule that is on."""

from dagster import AssetSelection, define_asset_job

from cleanup_pipeline.defs.assets import ASSETS
from cleanup_pipeline.gate.runs import JOB

session_cleanup = define_asset_job(
    JOB,
    selection=AssetSelection.assets(*ASSETS),
    description="Closes and deletes what has expired or been orphaned in After Hours; one rule after the other.",
)
