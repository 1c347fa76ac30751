"""The person's own kubeconfig: a context for each local cluster, put in and taken out.

In: the cluster's administrator kubeconfig. Out: `$KUBECONFIG`'s first file, else `~/.kube/config` (of the person who
called sudo). Other entries stay as they are.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from meltem import yamlio
from meltem.errors import UserError
from meltem.local.config import ClusterConfig
from meltem.objects import JsonObject, objects_at, str_at

_LISTS = ("clusters", "users", "contexts")


def context_name(name: str) -> str:
    return f"meltem-{name}"


def user_file() -> Path:
    """Where kubectl of the person at the keyboard looks."""
    first = next((p for p in os.environ.get("KUBECONFIG", "").split(os.pathsep) if p), "")
    if first:
        return Path(first)
    caller = os.environ.get("SUDO_USER", "")
    if caller and os.geteuid() == 0:
        try:
            return Path(pwd.getpwnam(caller).pw_dir) / ".kube/config"
        except KeyError:
            pass
    return Path.home() / ".kube/config"


def _read(path: Path) -> JsonObject:
    document = yamlio.load(path.read_text(), source=str(path)) if path.exists() else None
    if document is None:
        return {"apiVersion": "v1", "kind": "Config"}
    if not isinstance(document, dict):
        raise UserError("is no kubeconfig", where=str(path), remedy="Move it away, or set KUBECONFIG to another file.")
    return document


def _write(path: Path, document: JsonObject) -> None:
    made = [p for p in (path.parent, path) if not p.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(yamlio.dump(document))
    partial.replace(path)
    uid, gid = os.environ.get("SUDO_UID", ""), os.environ.get("SUDO_GID", "")
    if os.geteuid() == 0 and uid.isdigit() and gid.isdigit() and "KUBECONFIG" not in os.environ:
        for one in {*made, path}:
            os.chown(one, int(uid), int(gid))


def _without(document: JsonObject, names: set[str]) -> None:
    for field in _LISTS:
        document[field] = [e for e in objects_at(document, field) if str_at(e, "name") not in names]


def add_context(config: ClusterConfig) -> Path:
    """Puts the cluster's entries in and makes its context the current one; the file that was written."""
    path = user_file()
    document, own = _read(path), _read(config.kubeconfig)
    names = {str_at(e, "name") for field in _LISTS for e in objects_at(own, field)}
    _without(document, names)
    for field in _LISTS:
        document[field] = [*objects_at(document, field), *objects_at(own, field)]
    document["current-context"] = str_at(own, "current-context")
    _write(path, document)
    return path


def remove_context(config: ClusterConfig) -> None:
    path = user_file()
    if not path.exists():
        return
    document = _read(path)
    context = context_name(config.name)
    mine = {context, f"{context}-admin"}
    if not any(str_at(e, "name") == context for e in objects_at(document, "contexts")):
        return
    _without(document, mine)
    if str_at(document, "current-context") == context:
        document["current-context"] = ""
    _write(path, document)
