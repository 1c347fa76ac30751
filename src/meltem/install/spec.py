"""From a profile, files and `--set` to one IstioOperator: what is to be installed.

`resolve(Request(...))` reads the profile (a built-in name or a file), lays the given files over it in order, then the
`--set` pairs. Maps are merged; the lists of gateways are merged by name, other lists are replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from meltem import yamlio
from meltem.errors import UserError
from meltem.install import values
from meltem.install.paths import parse_value, set_at
from meltem.objects import Json, JsonObject, bool_at, copy_object, ensure_object, object_at, objects_at, str_at

API_VERSION = "install.istio.io/v1alpha1"
KIND = "IstioOperator"
DEFAULT_NAMESPACE = "istio-system"
_COMPONENTS = ("base", "pilot", "cni", "ztunnel", "istiodRemote", "ingressGateways", "egressGateways")
_SPEC_FIELDS = frozenset(
    (
        "profile", "installPackagePath", "hub", "tag", "namespace", "revision", "compatibilityVersion", "meshConfig",
        "components", "values", "unvalidatedValues", "defaultRevision", "addonComponents",
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """What the person asked for. `sets` are `path=value`; `package` is a directory with `charts/` and `profiles/`;
    `force` makes warnings of what is wrong with settings."""

    files: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    revision: str = ""
    package: str = ""
    namespace: str = ""
    force: bool = False


@dataclass(frozen=True, slots=True)
class Installation:
    """A resolved IstioOperator. `document` is the whole of it, `profile` the name it came from."""

    document: JsonObject
    profile: str
    package: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def spec(self) -> JsonObject:
        return object_at(self.document, "spec")

    @property
    def namespace(self) -> str:
        return (
            str_at(self.spec, "namespace")
            or str_at(self.spec, "values", "global", "istioNamespace")
            or DEFAULT_NAMESPACE
        )

    @property
    def revision(self) -> str:
        revision = str_at(self.spec, "revision")
        return "" if revision == "default" else revision

    @property
    def owner(self) -> str:
        """The name in the ownership label: the document's, or `installed-state[-REVISION]`."""
        given = str_at(self.document, "metadata", "name")
        return given or "installed-state" + (f"-{self.revision}" if self.revision else "")


def package_root(package: str) -> Traversable:
    """Where charts and profiles are: our own, or those of `-d DIRECTORY`."""
    if not package:
        return files("meltem.install")
    for candidate in (Path(package), Path(package) / "manifests"):
        if (candidate / "profiles").is_dir() and (candidate / "charts").is_dir():
            return candidate
    raise UserError("has no charts and profiles directories", where=f"--manifests {package}")


def profile_names(package: str = "") -> list[str]:
    directory = package_root(package) / "profiles"
    return sorted(f.name.removesuffix(".yaml") for f in directory.iterdir() if f.name.endswith(".yaml"))


def load_profile(name: str, package: str = "") -> JsonObject:
    """A profile by name (laid over `default`) or by the path of a file."""
    if "/" in name or name.endswith((".yaml", ".yml")):
        return load_file(name)
    directory = package_root(package) / "profiles"
    names = profile_names(package)
    if name not in names:
        raise UserError(
            f'profile "{name}" is not known', remedy=f"Profiles are: {', '.join(names)}; or give the path of a file."
        )
    base = _document((directory / "default.yaml").read_text(), "profile default")
    if name == "default":
        return base
    return overlay(base, _document((directory / f"{name}.yaml").read_text(), f"profile {name}"))


def load_file(path: str) -> JsonObject:
    """An IstioOperator from a file."""
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path) from None
    except UnicodeDecodeError:
        raise UserError("is not UTF-8 text", where=path) from None
    return _document(text, path)


def _document(text: str, source: str) -> JsonObject:
    document = yamlio.load(text, source=source)
    if not isinstance(document, dict) or str_at(document, "kind") != KIND:
        raise UserError(f"is not an {KIND} ({API_VERSION})", where=source)
    return _checked(document, source)


def _checked(document: JsonObject, source: str) -> JsonObject:
    spec = document.get("spec")
    if spec is not None and not isinstance(spec, dict):
        raise UserError("must be a map", where=f"{source} spec")
    for field in object_at(document, "spec"):
        if field not in _SPEC_FIELDS:
            raise UserError(
                f"is not a field of {KIND}",
                where=f"{source} spec.{field}",
                remedy=f"Known: {', '.join(sorted(_SPEC_FIELDS))}.",
            )
    for component in object_at(document, "spec", "components"):
        if component not in _COMPONENTS:
            raise UserError(
                "is not a component",
                where=f"{source} spec.components.{component}",
                remedy=f"Known: {', '.join(_COMPONENTS)}.",
            )
    return document


def overlay(under: JsonObject, over: JsonObject) -> JsonObject:
    """`over` laid on `under`: maps merge, lists of named things merge by name under `components`, null removes."""
    return _overlay(under, over, ())


def _overlay(under: JsonObject, over: JsonObject, path: tuple[str, ...]) -> JsonObject:
    out = copy_object(under)
    for key, value in over.items():
        have = out.get(key)
        if value is None:
            out.pop(key, None)
        elif isinstance(value, dict) and isinstance(have, dict):
            out[key] = _overlay(have, value, (*path, key))
        elif isinstance(value, list) and isinstance(have, list) and key in ("ingressGateways", "egressGateways"):
            out[key] = _by_name(have, value)
        else:
            out[key] = value
    return out


def _by_name(under: list[Json], over: list[Json]) -> list[Json]:
    out = list(under)
    for item in over:
        place = next((i for i, have in enumerate(out) if str_at(have, "name") == str_at(item, "name")), None)
        if place is None:
            out.append(item)
        else:
            have = out[place]
            out[place] = _overlay(have, item, ()) if isinstance(have, dict) and isinstance(item, dict) else item
    return out


def _pair(text: str) -> tuple[str, Json]:
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise UserError("is not of the form path=value", where=f"--set {text}")
    if path.split(".")[0].split("[")[0] not in _SPEC_FIELDS:
        raise UserError(
            "starts with what is no field of the installation",
            where=f"--set {text}",
            remedy=f"Paths start with one of {', '.join(sorted(_SPEC_FIELDS))}; "
            f"for a chart's value write values.{path}.",
        )
    return path, parse_value(value)


def resolve(request: Request) -> Installation:
    """The installation that the request describes; raises UserError naming file, path or profile."""
    return _resolved(request, [load_file(path) for path in request.files])


def resolve_document(document: JsonObject, package: str = "") -> Installation:
    """The installation that one IstioOperator describes, as it stands in a cluster; raises UserError likewise."""
    metadata = object_at(document, "metadata")
    given: JsonObject = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {k: metadata[k] for k in ("name", "namespace") if k in metadata},
        "spec": object_at(document, "spec"),
    }
    _checked(given, f"{KIND} {str_at(metadata, 'namespace')}/{str_at(metadata, 'name')}")
    return _resolved(Request(package=package), [given])


def _resolved(request: Request, given: list[JsonObject]) -> Installation:
    pairs = [_pair(text) for text in request.sets]
    profile = ""
    for document in given:
        profile = str_at(document, "spec", "profile") or profile
    profile = next((str(v) for p, v in reversed(pairs) if p == "profile"), profile) or "default"
    package = request.package or next((str(v) for p, v in reversed(pairs) if p == "installPackagePath"), "")
    document = load_profile(profile, package)
    for over in given:
        document = overlay(document, over)
    spec = ensure_object(document, "spec")
    spec["profile"] = profile
    for path, value in pairs:
        set_at(spec, path, value)
    if request.revision:
        spec["revision"] = request.revision
    if request.namespace and not str_at(spec, "namespace"):
        spec["namespace"] = request.namespace
    _check(spec)
    findings = values.check(spec, package_root(package) / "charts")
    errors = [str(f) for f in findings if not f.warning]
    if errors and not request.force:
        raise UserError(
            "\n".join(["the settings of the installation cannot be used:", *(f"  {e}" for e in errors)]),
            remedy="What a chart must get unchecked goes into unvalidatedValues; --force passes over all of these.",
        )
    return Installation(document, profile, package, tuple(str(f) for f in findings))


def _check(spec: JsonObject) -> None:
    revision = str_at(spec, "revision")
    if revision and not (len(revision) <= 56 and revision.replace("-", "").isalnum() and revision == revision.lower()):
        raise UserError(
            f'"{revision}" cannot be a revision',
            where="revision",
            remedy="Lower-case letters, digits and -; 1-28-0, not 1.28.0.",
        )
    if bool_at(spec, "components", "ztunnel", "enabled"):
        raise UserError("is not there: this mesh works with sidecars only", where="components.ztunnel")
    for kind in ("ingressGateways", "egressGateways"):
        for gateway in objects_at(spec, "components", kind):
            if not str_at(gateway, "name"):
                raise UserError("has no name", where=f"components.{kind}")
