"""What the injector works with: the ConfigMap `istio-sidecar-injector` and the mesh configuration, parsed once.

In: the texts of its keys `config` and `values`, and the mesh's YAML. Out: frozen `InjectorConfig`; `UserError` saying
which key and what is wrong. Templates are parsed here, so that a bad one is known before a pod needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from meltem import yamlio
from meltem.errors import UserError
from meltem.gotemplate.template import Template
from meltem.inject.functions import FUNCTION_NAMES, placeholder
from meltem.objects import JsonObject, at, bool_at, object_at, objects_at, str_at, string_map_at, strings_at

DEFAULT_TEMPLATE = "sidecar"


@dataclass(frozen=True, slots=True)
class InjectorConfig:
    """`policy`: `enabled` or `disabled`, for pods about which nothing else decides."""

    policy: str
    templates: Mapping[str, Template]
    default_templates: tuple[str, ...]
    aliases: Mapping[str, tuple[str, ...]]
    never_inject: tuple[JsonObject, ...]
    always_inject: tuple[JsonObject, ...]
    injected_annotations: Mapping[str, str]
    values: JsonObject
    mesh: JsonObject
    revision: str = "default"
    native_sidecars: bool = False
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the template function `env` may read."""

    @property
    def rewrite_probes(self) -> bool:
        return bool_at(self.values, "sidecarInjectorWebhook", "rewriteAppHTTPProbe", default=True)

    @property
    def prometheus_merge(self) -> bool:
        return bool_at(self.mesh, "enablePrometheusMerge", default=True)


def read_config(
    config_text: str,
    values_text: str,
    mesh: JsonObject,
    *,
    revision: str = "default",
    native_sidecars: bool | None = None,
    environment: Mapping[str, str] | None = None,
) -> InjectorConfig:
    """`native_sidecars`: what istiod has found; None takes what the values say. Raises UserError."""
    where = "ConfigMap istio-sidecar-injector"
    config = _mapping(config_text, f"{where} key config")
    values = _mapping(values_text, f"{where} key values")
    templates: dict[str, Template] = {}
    for name, text in string_map_at(config, "templates").items():
        template = Template(text, name, functions=dict.fromkeys(FUNCTION_NAMES, placeholder))
        _ = template.defined  # parses now: a broken template is an error of the configuration, not of some pod
        templates[name] = template
    policy = str_at(config, "policy") or "enabled"
    if policy not in ("enabled", "disabled"):
        raise UserError(f"policy must be enabled or disabled, not {policy[:40]!r}", where=f"{where} key config")
    return InjectorConfig(
        policy=policy,
        templates=templates,
        default_templates=tuple(strings_at(config, "defaultTemplates")) or (DEFAULT_TEMPLATE,),
        aliases={k: tuple(strings_at(config, "aliases", k)) for k in object_at(config, "aliases")},
        never_inject=tuple(objects_at(config, "neverInjectSelector")),
        always_inject=tuple(objects_at(config, "alwaysInjectSelector")),
        injected_annotations=string_map_at(config, "injectedAnnotations"),
        values=values,
        mesh=mesh,
        revision=revision or "default",
        native_sidecars=_native(values) if native_sidecars is None else native_sidecars,
        environment=environment or {},
    )


def _native(values: JsonObject) -> bool:
    """As istiod's Deployment gets it; `auto` needs a look at the nodes, which only istiod has."""
    said = at(values, "pilot", "env", "ENABLE_NATIVE_SIDECARS")
    return str(at(values, "global", "nativeSidecars") if said is None else said).lower() == "true"


def _mapping(text: str, where: str) -> JsonObject:
    value = yamlio.load(text, source=where)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError("is not a mapping", where=where)
    return value
