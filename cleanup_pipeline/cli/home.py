"""A DAGSTER_HOME for a server of our own, for as long as it runs."""

from pathlib import Path

DAGSTER_YAML = Path("dagster.yaml")
# Where the command does not stand in the checkout: what matters of its dagster.yaml.
_STORAGE = """\
storage:
  postgres:
    postgres_url:
      env: DAGSTER_POSTGRES_URL
concurrency:
  pools:
    granularity: run
    default_limit: 1
telemetry:
  enabled: false
nux:
  enabled: false
"""
_WORKSPACE = """\
load_from:
  - python_module:
      module_name: cleanup_pipeline.definitions
      location_name: cleanup_pipeline
"""


def make_home(folder: Path) -> Path:
    """Make a DAGSTER_HOME in `folder`, with the checkout's dagster.yaml where the command stands in it.

    Dagster keeps logs beside its dagster.yaml: the checkout itself stays clean. Returns the workspace file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dagster.yaml").write_text(DAGSTER_YAML.read_text() if DAGSTER_YAML.is_file() else _STORAGE)
    workspace = folder / "workspace.yaml"
    workspace.write_text(_WORKSPACE)
    return workspace
