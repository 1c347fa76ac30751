"""Charts rendered as `helm template` renders them.

`load_chart(directory)` reads a chart (and the charts under `charts/`); `render_chart` gives each template's text by its
name (`istiod/templates/service.yaml`), `manifests` the objects in helm's install order. Values are coalesced as helm
does it: the chart's own under the given ones, a given null removes a key, `global` reaches every subchart. Numbers of
values are float64, as YAML read through JSON has them in Go.
"""

from __future__ import annotations

import base64
import fnmatch
import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable

from meltem import yamlio
from meltem.clock import Clock
from meltem.errors import UserError
from meltem.gotemplate.encodings import floats, marshal_yaml, to_yaml
from meltem.gotemplate.evaluator import Executor, Limits, TemplateError
from meltem.gotemplate.nodes import Tree
from meltem.gotemplate.parser import is_empty, parse
from meltem.gotemplate.template import library, linked
from meltem.gotemplate.values import Function, GoStruct, Map, Strings, Value, functions, is_map, sorted_keys
from meltem.objects import Json, JsonObject, objects_at, str_at

MAX_FILES = 5000


@dataclass(frozen=True, slots=True)
class Chart:
    """`templates` and `files` by path inside the chart; `values` as written in values.yaml."""

    metadata: JsonObject
    values: JsonObject
    templates: Mapping[str, str]
    files: Mapping[str, bytes]
    schema: JsonObject | None = None
    crds: Mapping[str, str] = field(default_factory=dict[str, str])
    dependencies: tuple[Chart, ...] = ()

    @property
    def name(self) -> str:
        return str_at(self.metadata, "name")


@dataclass(frozen=True, slots=True)
class Release:
    """What templates see as `.Release`."""

    name: str
    namespace: str = "default"
    is_upgrade: bool = False
    revision: int = 1


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What the cluster has: `.Capabilities`. `api_versions` hold `apps/v1` and `apps/v1/Deployment`."""

    kube_version: str = "v1.34.0"
    api_versions: frozenset[str] = frozenset()


def load_chart(directory: Traversable) -> Chart:
    """Reads a chart directory; raises UserError where it is none."""
    files: dict[str, bytes] = {}
    _collect(directory, "", files)
    if "Chart.yaml" not in files:
        raise UserError("is not a chart: Chart.yaml is missing", where=str(directory))
    return _chart(files, str(directory))


def _collect(directory: Traversable, prefix: str, files: dict[str, bytes]) -> None:
    for entry in sorted(directory.iterdir(), key=lambda e: e.name):
        path = prefix + entry.name
        if entry.is_dir():
            _collect(entry, path + "/", files)
        elif not entry.name.endswith((".pyc", "~")) and entry.name != ".helmignore":
            files[path] = entry.read_bytes()
        if len(files) > MAX_FILES:
            raise UserError(f"has more than {MAX_FILES} files", where=str(directory))


def _chart(files: Mapping[str, bytes], where: str) -> Chart:
    subcharts: dict[str, dict[str, bytes]] = {}
    templates: dict[str, str] = {}
    crds: dict[str, str] = {}
    others: dict[str, bytes] = {}
    for path, data in files.items():
        if path.startswith("templates/"):
            templates[path] = _decode(data, f"{where}/{path}")
        elif path.startswith("crds/"):
            crds[path] = _decode(data, f"{where}/{path}")
        elif path.startswith("charts/") and path.count("/") > 1:
            _, name, rest = path.split("/", 2)
            subcharts.setdefault(name, {})[rest] = data
        elif path not in ("Chart.yaml", "Chart.lock", "values.yaml", "values.schema.json"):
            others[path] = data
    metadata = _object(files["Chart.yaml"], f"{where}/Chart.yaml")
    if not str_at(metadata, "name"):
        raise UserError("has no name", where=f"{where}/Chart.yaml")
    schema = files.get("values.schema.json")
    return Chart(
        metadata,
        _object(files.get("values.yaml", b""), f"{where}/values.yaml"),
        templates,
        others,
        _object(schema, f"{where}/values.schema.json") if schema is not None else None,
        crds,
        tuple(_chart(sub, f"{where}/charts/{name}") for name, sub in sorted(subcharts.items())),
    )


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UserError("is not UTF-8", where=where) from None


def _object(data: bytes, where: str) -> JsonObject:
    value = yamlio.load(data, source=where)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError("is not a map", where=where)
    return value


# values


def coalesce(chart: Chart, given: Mapping[str, Value]) -> Map:
    """The values that the chart's templates see: `given` over the chart's own, its subcharts' among them."""
    merged = _over(dict(given), floats(chart.values))
    for dependency in chart.dependencies:
        own = merged.get(dependency.name)
        scoped: Map = dict(own) if is_map(own) else {}
        shared = merged.get("global")
        if is_map(shared):
            local = scoped.get("global")
            scoped["global"] = _over(dict(shared), local if is_map(local) else {})
        merged[dependency.name] = coalesce(dependency, scoped)
    return merged


def _over(given: Map, defaults: Value) -> Map:
    """`given` completed from `defaults`; a null in `given` removes the key."""
    if not is_map(defaults):
        return given
    out: Map = {}
    for key, value in given.items():
        if value is None and key in defaults:
            continue
        default = defaults.get(key)
        if is_map(value) and is_map(default):
            out[key] = _over(value, default)
        else:
            out[key] = _copied(value)
    for key, value in defaults.items():
        if key not in given:
            out[key] = _copied(value)
    return out


def _copied(value: Value) -> Value:
    return {k: _copied(v) for k, v in value.items()} if is_map(value) else value


# what templates see


def _files(files: Mapping[str, bytes]) -> GoStruct:
    def text(name: str) -> str:
        return files.get(name, b"").decode("utf-8", "surrogateescape")

    def get(name: str) -> str:
        return text(name)

    def get_bytes(name: str) -> str:
        return text(name)

    def glob(pattern: str) -> GoStruct:
        return _files({n: d for n, d in files.items() if _glob(n, pattern)})

    def as_config() -> str:
        return marshal_yaml({posixpath.basename(n): text(n) for n in files}).removesuffix("\n") if files else ""

    def as_secrets() -> str:
        encoded: Map = {posixpath.basename(n): base64.b64encode(d).decode() for n, d in files.items()}
        return marshal_yaml(encoded).removesuffix("\n") if files else ""

    def lines(name: str) -> Strings:
        content = text(name)
        if not content:
            return Strings()
        return Strings(content.removesuffix("\n").split("\n"))

    methods = functions(Get=get, GetBytes=get_bytes, Glob=glob, AsConfig=as_config, AsSecrets=as_secrets, Lines=lines)
    return GoStruct("engine.files", {n: text(n) for n in sorted_keys(files)}, methods)


def _glob(name: str, pattern: str) -> bool:
    """`*` stays inside a path segment, `**` crosses them, `{a,b}` is either."""
    if "{" in pattern:
        head, _, rest = pattern.partition("{")
        choices, _, tail = rest.partition("}")
        return any(_glob(name, head + choice + tail) for choice in choices.split(","))
    if "**" in pattern:
        return fnmatch.fnmatchcase(name, pattern.replace("**", "*"))
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _capabilities(capabilities: Capabilities) -> GoStruct:
    def has(version: str) -> bool:
        return version in capabilities.api_versions

    version = capabilities.kube_version
    major, _, rest = version.removeprefix("v").partition(".")

    def git_version() -> str:
        return version

    kube = GoStruct(
        "chartutil.KubeVersion",
        {"Version": version, "Major": major, "Minor": rest.partition(".")[0]},
        functions(GitVersion=git_version, String=git_version),
        version,
    )
    helm = GoStruct("chartutil.HelmVersion", {"Version": "v3.22", "GitCommit": "", "GitTreeState": "", "GoVersion": ""})
    versions = GoStruct("chartutil.VersionSet", {v: v for v in sorted(capabilities.api_versions)}, functions(Has=has))
    return GoStruct("*chartutil.Capabilities", {"KubeVersion": kube, "APIVersions": versions, "HelmVersion": helm})


def _metadata(chart: Chart, *, root: bool) -> GoStruct:
    def text(name: str) -> str:
        """A number (`appVersion: 1.2`) is read as the text that it was written as."""
        value = chart.metadata.get(name)
        return value if isinstance(value, str) else "" if value is None else to_yaml(value)

    fields: dict[str, Value] = {
        "Name": text("name"),
        "Home": text("home"),
        "Sources": chart.metadata.get("sources") or Strings(),
        "Version": text("version"),
        "Description": text("description"),
        "Keywords": chart.metadata.get("keywords") or Strings(),
        "Icon": text("icon"),
        "APIVersion": text("apiVersion"),
        "AppVersion": text("appVersion"),
        "Deprecated": chart.metadata.get("deprecated") is True,
        "Annotations": chart.metadata.get("annotations") or {},
        "KubeVersion": text("kubeVersion"),
        "Type": text("type"),
        "IsRoot": root,
    }
    return GoStruct("chart.Metadata", fields)


@dataclass(frozen=True, slots=True)
class _Renderable:
    text: str
    base_path: str
    data: Map


def _scope(
    chart: Chart, prefix: str, values: Map, shared: Mapping[str, Value], out: dict[str, _Renderable], *, root: bool
) -> Map:
    path = prefix + chart.name
    data: Map = {**shared, "Chart": _metadata(chart, root=root), "Files": _files(chart.files), "Values": values}
    subcharts: Map = {}
    for dependency in chart.dependencies:
        inner = values.get(dependency.name)
        subcharts[dependency.name] = _scope(
            dependency, f"{path}/charts/", inner if is_map(inner) else {}, shared, out, root=False
        )
    data["Subcharts"] = subcharts
    for name, text in chart.templates.items():
        if str_at(chart.metadata, "type") == "library" and not posixpath.basename(name).startswith("_"):
            continue
        out[f"{path}/{name}"] = _Renderable(text, f"{path}/templates", data)
    return data


def render_chart(
    chart: Chart,
    values: Mapping[str, Json],
    release: Release,
    capabilities: Capabilities | None = None,
    *,
    lookup: Callable[[str, str, str, str], JsonObject] | None = None,
    clock: Clock | None = None,
    limits: Limits | None = None,
) -> dict[str, str]:
    """Each template's text by its name, partials (`_*`) left out, in helm's order of rendering.

    `lookup(apiVersion, kind, namespace, name)` answers the template function of that name; without it nothing is found.
    Raises TemplateError with the place as helm reports it.
    """
    given = floats(dict(values))
    merged = coalesce(chart, given if is_map(given) else {})
    shared: dict[str, Value] = {
        "Release": {
            "Name": release.name,
            "Namespace": release.namespace,
            "IsUpgrade": release.is_upgrade,
            "IsInstall": not release.is_upgrade,
            "Revision": release.revision,
            "Service": "Helm",
        },
        "Capabilities": _capabilities(capabilities or Capabilities()),
    }
    renderables: dict[str, _Renderable] = {}
    _scope(chart, "", merged, shared, renderables, root=True)
    table: dict[str, Function] = library(clock)
    if lookup is not None:
        table["lookup"] = _lookup(lookup)
    executor: Executor | None = None

    def running() -> Executor:
        if executor is None:
            raise TemplateError("include was called outside a rendering")
        return executor

    table |= linked(running)
    order = sorted(renderables, key=lambda n: (n.count("/"), n), reverse=True)
    trees = _trees(order, renderables, table)
    out: dict[str, str] = {}
    for name in order:
        if posixpath.basename(name).startswith("_"):
            continue
        renderable = renderables[name]
        renderable.data["Template"] = {"Name": name, "BasePath": renderable.base_path}
        executor = Executor(trees, table, missing_key="zero", limits=limits)
        out[name] = executor.execute(name, renderable.data).replace("<no value>", "")
    return out


def _lookup(find: Callable[[str, str, str, str], JsonObject]) -> Function:
    def lookup(api_version: str, kind: str, namespace: str, name: str) -> Map:
        found = floats(find(api_version, kind, namespace, name))
        return found if is_map(found) else {}

    return functions(lookup=lookup)["lookup"]


def _trees(order: list[str], renderables: Mapping[str, _Renderable], table: Mapping[str, Function]) -> dict[str, Tree]:
    trees: dict[str, Tree] = {}
    for name in order:
        for defined, tree in parse(name, renderables[name].text, table).items():
            if defined not in trees or not is_empty(tree.root):
                trees[defined] = tree
    return trees


INSTALL_ORDER = (
    "PriorityClass", "Namespace", "NetworkPolicy", "ResourceQuota", "LimitRange", "PodSecurityPolicy",
    "PodDisruptionBudget", "ServiceAccount", "Secret", "SecretList", "ConfigMap", "StorageClass", "PersistentVolume",
    "PersistentVolumeClaim", "CustomResourceDefinition", "ClusterRole", "ClusterRoleList", "ClusterRoleBinding",
    "ClusterRoleBindingList", "Role", "RoleList", "RoleBinding", "RoleBindingList", "Service", "DaemonSet", "Pod",
    "ReplicationController", "ReplicaSet", "Deployment", "HorizontalPodAutoscaler", "StatefulSet", "Job", "CronJob",
    "IngressClass", "Ingress", "APIService",
)  # fmt: skip
"""Helm's order of kinds; kinds that it does not name come last, by name."""


def install_rank(kind: str) -> tuple[int, str]:
    return (INSTALL_ORDER.index(kind), "") if kind in INSTALL_ORDER else (len(INSTALL_ORDER), kind)


def manifests(rendered: Mapping[str, str]) -> list[JsonObject]:
    """The objects of rendered templates in install order (kind, then the template's name); NOTES.txt is left out."""
    found: list[JsonObject] = []
    for name in sorted(rendered):
        if name.endswith(".txt"):
            continue
        for document in yamlio.load_all(rendered[name], source=name):
            if not isinstance(document, dict):
                raise UserError("renders something that is no Kubernetes object", where=name)
            found += objects_at(document, "items") if document.get("kind") == "List" else [document]
    return sorted(found, key=lambda o: install_rank(str_at(o, "kind")))
