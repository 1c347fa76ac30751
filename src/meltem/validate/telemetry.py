"""Telemetry: access logs, metrics and traces. Expressions are compiled where they are used.

In: a `Telemetry`. Out: findings.
"""

from __future__ import annotations

from meltem.resources.telemetry import CustomTag, Metrics, ProviderRef, Telemetry, Tracing
from meltem.validate import checks
from meltem.validate.findings import Report


def check_telemetry(r: Report, telemetry: Telemetry) -> None:
    spec = telemetry.spec
    checks.check_targets(r, spec.selector, spec.target_ref, spec.target_refs)
    if len(spec.tracing) > 1:
        r.at("tracing").warn("only the first entry has an effect")
    for i, tracing in enumerate(spec.tracing):
        _tracing(r.at("tracing", i), tracing)
    for i, metrics in enumerate(spec.metrics):
        _metrics(r.at("metrics", i), metrics)
    for i, logging in enumerate(spec.access_logging):
        here = r.at("accessLogging", i)
        _providers(here, logging.providers)
        if logging.filter is not None:
            checks.check_cel(here.at("filter").at("expression"), logging.filter.expression)


def _providers(r: Report, providers: tuple[ProviderRef, ...]) -> None:
    for i, provider in enumerate(providers):
        if not provider.name:
            r.at("providers", i).at("name").error("is empty", "Name one of the mesh's extensionProviders.")


def _tracing(r: Report, tracing: Tracing) -> None:
    if len(tracing.providers) > 1:
        r.at("providers").warn("only the first provider has an effect")
    _providers(r, tracing.providers)
    sampling = tracing.random_sampling_percentage
    if sampling is not None and not 0 <= sampling <= 100:
        r.at("randomSamplingPercentage").error(f"{sampling:g} is no percentage", "Write a number from 0 to 100.")
    for name, tag in tracing.custom_tags.items():
        here = r.at("customTags", name)
        if not name:
            here.error("the tag has no name")
        _tag(here, tag)


def _tag(r: Report, tag: CustomTag) -> None:
    for field, value in (
        ("literal", tag.literal.value if tag.literal else None),
        ("formatter", tag.formatter.value if tag.formatter else None),
        ("header", tag.header.name if tag.header else None),
        ("environment", tag.environment.name if tag.environment else None),
    ):
        if value == "":
            r.at(field).error("is empty", "Write where the value comes from.")


def _metrics(r: Report, metrics: Metrics) -> None:
    _providers(r, metrics.providers)
    for i, override in enumerate(metrics.overrides):
        here = r.at("overrides", i)
        if override.match is not None and override.match.custom_metric == "":
            here.at("match").at("customMetric").error("is empty", "Name a metric.")
        for name, tag in override.tag_overrides.items():
            below = here.at("tagOverrides", name)
            if not name:
                below.warn("the tag has no name: the override has no effect")
            if tag.operation == "UPSERT" and not tag.value:
                below.at("value").error("is missing: UPSERT needs a value", "Write a CEL expression.")
            elif tag.operation == "REMOVE" and tag.value:
                below.at("value").error("has no effect with REMOVE", "Remove the value.")
            if tag.value:
                checks.check_cel(below.at("value"), tag.value)
