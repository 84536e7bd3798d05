"""What Dagster loads. Opens no connection and needs no variable."""

from dagster import Definitions, ResourceDefinition, in_process_executor

from cleanup_pipeline.defs.assets import ASSETS, MESSAGE_CLEANUP
from cleanup_pipeline.defs.job import session_cleanup
from cleanup_pipeline.defs.resources import CleanupRun, Observer, PostgresResource
from cleanup_pipeline.defs.schedules import session_cleanup_daily
from cleanup_pipeline.defs.sensors import session_cleanup_alerts, session_cleanup_gate

defs = Definitions(
    assets=[MESSAGE_CLEANUP, *ASSETS],
    jobs=[session_cleanup],
    schedules=[session_cleanup_daily],
    sensors=[session_cleanup_gate, session_cleanup_alerts],
    resources={
        "postgres": PostgresResource(),
        "cleanup_run": CleanupRun(),
        "observer": ResourceDefinition(lambda _: Observer()),
    },
    # One process for the whole code location: "Materialize all" then runs as the job does, one rule after the other.
    executor=in_process_executor,
)
