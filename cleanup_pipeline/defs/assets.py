"""Five assets side by side below message cleanup, one for each rule that is on.

None depends on another: where a step fails, Dagster would not run the ones below it, and would not say so.
"""

from collections.abc import Iterator
from datetime import timedelta

from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    AssetSpec,
    Config,
    FreshnessPolicy,
    MaterializeResult,
    ResourceParam,
    multi_asset,
)
from pydantic import Field

from cleanup_pipeline.defs.checks import specs_of
from cleanup_pipeline.defs.ops import carry_out
from cleanup_pipeline.defs.resources import CleanupRun, Observer, PostgresResource
from cleanup_pipeline.defs.story import OWNER, described, static_metadata
from cleanup_pipeline.rules import OVERDUE_AFTER, RULES_ON, Close, Rule

GROUP = "after_hours"
POOL = "session_cleanup"
"""The pool of which dagster.yaml lets one run at a time have a place."""

MESSAGE_CLEANUP = AssetSpec(
    key=AssetKey(["chat_service", "message_cleanup"]),
    group_name="chat_service",
    description=(
        "chat-service's own nightly message cleanup, due at 03:00 UTC: it deletes matches that expired over 30 days "
        "ago, with their messages. What is below waits for its success, and never touches a match or a message."
    ),
    owners=["team:chat-service"],
    kinds={"postgres"},
)


class RuleConfig(Config):
    """A rule without settings of its own."""

    def age(self) -> timedelta | None:
        """The age that replaces the rule's own."""
        return None


class RetentionConfig(RuleConfig):
    """How long rows are kept."""

    retention_days: int = Field(default=7, ge=1, le=36500, description="Rows older than so many days are deleted.")

    def age(self) -> timedelta | None:
        """The age that replaces the rule's own."""
        return timedelta(days=self.retention_days)


class GraceConfig(RuleConfig):
    """How long an orphan is left alone."""

    grace_minutes: int = Field(
        default=60, ge=1, le=60 * 24 * 36500, description="Rows made or changed since are no orphans yet."
    )

    def age(self) -> timedelta | None:
        """The age that replaces the rule's own."""
        return timedelta(minutes=self.grace_minutes)


def config_of(rule: Rule) -> type[RuleConfig]:
    """The configuration that the op of a rule takes."""
    match rule.age:
        case None:
            return RuleConfig
        case age if age.kind == "retention":
            return RetentionConfig
        case _:
            return GraceConfig


def asset_of(rule: Rule, place: int) -> AssetsDefinition:
    """The op and asset of one rule; `place` is its place in the order of the run."""

    def cleanup(
        context: AssetExecutionContext,
        config: RuleConfig,
        postgres: PostgresResource,
        cleanup_run: CleanupRun,
        observer: ResourceParam[Observer],
    ) -> Iterator[MaterializeResult[None] | AssetCheckResult]:
        yield from carry_out(rule, config.age(), context, postgres, cleanup_run, observer)

    # Dagster reads an op's configuration from this annotation, and each kind of rule has its own.
    cleanup.__annotations__["config"] = config_of(rule)
    decorate = multi_asset(
        name=rule.op,
        description=described(rule),
        specs=[
            AssetSpec(
                key=AssetKey(rule.asset),
                deps=[MESSAGE_CLEANUP.key],
                group_name=GROUP,
                description=described(rule),
                owners=[OWNER],
                kinds={"postgres"},
                tags={
                    "cleanup/rule": rule.name,
                    "cleanup/action": "close" if isinstance(rule.action, Close) else "delete",
                },
                metadata=static_metadata(rule),
                # A rule that a limit of the run left no time for.
                skippable=True,
                freshness_policy=FreshnessPolicy.time_window(fail_window=OVERDUE_AFTER),
            )
        ],
        check_specs=specs_of(rule),
        pool=POOL,
        # In one process steps run by priority, then by name.
        op_tags={"dagster/priority": str(-place)},
    )
    return decorate(cleanup)


ASSETS: tuple[AssetsDefinition, ...] = tuple(asset_of(rule, place) for place, rule in enumerate(RULES_ON))
