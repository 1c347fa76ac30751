"""Server-side apply, and who owns which field.

In: the schema, the object as stored, what a client applies or has changed. Out: the new object with its
`metadata.managedFields`. `now` is an RFC 3339 moment; it is written only where a manager's fields changed. Neither
function defaults, prunes or validates: the server does that with the result, and stores nothing when it equals what
it had.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import cast

import msgspec

from meltem.errors import Conflict
from meltem.local.apiserver.schema import fieldset as fs
from meltem.local.apiserver.schema import structured as st
from meltem.local.apiserver.schema.fieldset import FieldSet
from meltem.local.apiserver.schema.kinds import builtin_kinds
from meltem.local.apiserver.schema.types import Schema
from meltem.objects import (
    Json,
    JsonObject,
    annotations_of,
    ensure_object,
    name_of,
    object_at,
    objects_at,
    str_at,
)

_APPLY, _UPDATE = "Apply", "Update"
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_KUBECTL = "kubectl"
_MAX_UPDATERS = 10
_ANCIENT = "ancient-changes"
_SERVER_OWNED: FieldSet = {
    "f:apiVersion": {},
    "f:kind": {},
    "f:metadata": {
        ".": {},
        "f:name": {},
        "f:namespace": {},
        "f:creationTimestamp": {},
        "f:selfLink": {},
        "f:uid": {},
        "f:clusterName": {},
        "f:generation": {},
        "f:managedFields": {},
        "f:resourceVersion": {},
    },
}


class _Id(msgspec.Struct, frozen=True):
    """Who wrote: an applier is the same whichever version it uses."""

    manager: str
    operation: str
    api_version: str
    subresource: str


class _Owned(msgspec.Struct, frozen=True):
    fields: FieldSet
    api_version: str
    time: str


class _Managers:
    """The managers of one object, while one request is worked on."""

    def __init__(self, entries: Iterable[JsonObject]) -> None:
        self.owned: dict[_Id, _Owned] = {}
        for entry in entries:
            operation, version = str_at(entry, "operation"), str_at(entry, "apiVersion")
            if not operation:
                continue
            who = _identity(str_at(entry, "manager"), operation, version, str_at(entry, "subresource"))
            self.owned[who] = _Owned(fs.parse(entry.get("fieldsV1")), version, str_at(entry, "time"))
        self.before = dict(self.owned)

    def put(self, who: _Id, fields: FieldSet, api_version: str) -> None:
        if fields:
            known = self.owned.get(who)
            self.owned[who] = _Owned(fields, api_version, known.time if known else "")
        else:
            self.owned.pop(who, None)

    def take(self, keep: _Id, changed: FieldSet, removed: FieldSet) -> None:
        """Everyone but `keep` loses what was changed; nobody keeps what is gone."""
        for who, owned in list(self.owned.items()):
            lost = removed if who == keep else fs.union(changed, removed)
            left = fs.difference(owned.fields, lost)
            if left != owned.fields:
                self.put(who, left, owned.api_version)

    def entries(self, writer: _Id, now: str) -> list[Json]:
        """`managedFields`; `writer` gets the time `now` where its fields are others than before."""
        stripped: dict[_Id, _Owned] = {}
        for who, owned in self.owned.items():
            fields = fs.difference(owned.fields, _SERVER_OWNED)
            if not fields:
                continue
            before = self.before.get(who)
            fresh = who == writer and (
                before is None or before.fields != fields or before.api_version != owned.api_version
            )
            stripped[who] = _Owned(fields, owned.api_version, now if fresh or not owned.time else owned.time)
        _cap(stripped)
        ordered = sorted(
            stripped.items(),
            key=lambda kv: (kv[0].operation, kv[1].time, kv[0].manager, kv[1].api_version, kv[0].subresource),
        )
        return [_entry(who, owned) for who, owned in ordered]


def _identity(manager: str, operation: str, api_version: str, subresource: str) -> _Id:
    return _Id(manager, operation, "" if operation == _APPLY else api_version, subresource)


def _entry(who: _Id, owned: _Owned) -> JsonObject:
    entry: JsonObject = {
        "apiVersion": owned.api_version,
        "fieldsType": "FieldsV1",
        "fieldsV1": fs.as_json(owned.fields),
        "manager": who.manager,
        "operation": who.operation,
        "time": owned.time,
    }
    if who.subresource:
        entry["subresource"] = who.subresource
    return entry


def _cap(managers: dict[_Id, _Owned]) -> None:
    """Beyond ten updaters, the oldest are merged into one a version."""
    updaters = sorted(
        (w for w in managers if w.operation == _UPDATE and w.manager != _ANCIENT), key=lambda w: managers[w].time
    )
    while len(updaters) > _MAX_UPDATERS:
        oldest = updaters.pop(0)
        owned = managers.pop(oldest)
        bucket = _Id(_ANCIENT, _UPDATE, owned.api_version, "")
        known = managers.get(bucket)
        fields = fs.union(known.fields, owned.fields) if known else owned.fields
        managers[bucket] = _Owned(fields, owned.api_version, owned.time)


def _new_object(schema: Schema) -> JsonObject:
    """What an object of the kind is before anything is written: the structs that Kubernetes' types always have."""
    empty: JsonObject = {"metadata": {}}
    for part in ("spec", "status"):
        if part in schema.properties:
            empty[part] = {}
    if schema.builtin:
        spec = schema.properties.get("spec")
        known = spec.properties if spec is not None else {}
        target = ensure_object(empty, "spec") if spec is not None else {}
        for part in ("strategy", "updateStrategy"):
            if part in known:
                target[part] = {}
        if "template" in known:
            target["template"] = {"metadata": {}, "spec": {"containers": None}}
        elif schema.gvk[2] == "Pod":
            target["containers"] = None
        elif schema.gvk[2] == "CronJob":
            inner: JsonObject = {"metadata": {}, "spec": {"containers": None}}
            target["jobTemplate"] = {"metadata": {}, "spec": {"template": inner}}
    return empty


def _not_ours(schema: Schema, subresource: str) -> FieldSet:
    """Paths that a write to this endpoint cannot set, so that it does not own them either."""
    if subresource == "status":
        if not schema.builtin:
            return {f"f:{k}": st.everything(None, None) for k in schema.properties if k != "status"}
        return {"f:spec": {}}
    if subresource == "" and schema.builtin and _has_status(schema):
        return {"f:status": {}}
    return {}


def _has_status(schema: Schema) -> bool:
    group, version, kind = schema.gvk
    return any(
        k.kind == kind and k.group == group and k.version == version and "status" in k.subresources
        for k in builtin_kinds()
    )


def _strip(fields: FieldSet, tops: FieldSet) -> FieldSet:
    return {k: v for k, v in fields.items() if k not in tops}


def _with_managers(obj: JsonObject, entries: list[Json]) -> JsonObject:
    metadata = dict(object_at(obj, "metadata"))
    if entries:
        metadata["managedFields"] = entries
    else:
        metadata.pop("managedFields", None)
    return {**obj, "metadata": metadata}


def _without_managers(obj: JsonObject) -> JsonObject:
    metadata = {k: v for k, v in object_at(obj, "metadata").items() if k != "managedFields"}
    return {**obj, "metadata": metadata}


def apply(
    schema: Schema,
    live: JsonObject | None,
    applied: JsonObject,
    *,
    manager: str,
    api_version: str,
    force: bool,
    now: str,
    subresource: str = "",
) -> JsonObject:
    """The object after a server-side apply (`live` None: it is made).

    Raises Conflict, with a cause for each field, where another manager owns a field that this would change and
    `force` is off; ServerError, as Kubernetes does, for an applied object that the schema does not describe.
    """
    what = f"/{name_of(applied)}; {api_version}, Kind={str_at(applied, 'kind')}"
    applied = _without_managers(applied)
    st.check_applied(schema, applied, what)
    who = _identity(manager, _APPLY, api_version, subresource)
    managers = _Managers(objects_at(live, "metadata", "managedFields"))
    current = _without_managers(live) if live is not None else _new_object(schema)
    if live is not None and not managers.owned:
        first = _identity("before-first-apply", _UPDATE, api_version, "")
        managers.put(first, st.to_set(schema, current), api_version)
    last = managers.owned.get(who)
    claimed = _strip(st.to_set(schema, applied), _not_ours(schema, subresource))
    managers.put(who, claimed, api_version)
    merged = _object(st.merge(schema, current, applied))
    if last is not None:
        merged = _drop_unclaimed(schema, merged, last.fields, managers)
    if live is not None:
        difference = st.compare(schema, current, merged)
        changed = fs.union(difference.added, difference.modified)
        if not force:
            _refuse_conflicts(managers, who, changed, _forgiven(schema, current, manager))
        managers.take(who, changed, difference.removed)
    else:
        merged = dict(applied)
    if manager == _KUBECTL and _LAST_APPLIED in annotations_of(merged):
        merged = _with_last_applied(merged, applied)
    return _with_managers(merged, managers.entries(who, now))


def _object(value: Json) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _drop_unclaimed(schema: Schema, merged: JsonObject, last: FieldSet, managers: _Managers) -> JsonObject:
    """Takes out what this manager applied the last time, does not apply any more, and nobody else owns."""
    others: FieldSet = {}
    for owned in managers.owned.values():
        others = fs.union(others, owned.fields)
    kept = fs.with_parents(fs.union(others, {"f:metadata": {}, "f:apiVersion": {}, "f:kind": {}}))
    gone = fs.difference(fs.with_parents(last), kept)
    return st.without(schema, merged, gone, others) if gone else merged


def _forgiven(schema: Schema, live: JsonObject, manager: str) -> FieldSet:
    """What kubectl itself applied from the client side before: taking that over is no conflict."""
    text = annotations_of(live).get(_LAST_APPLIED)
    if manager != _KUBECTL or text is None:
        return {}
    try:
        before = cast(Json, json.loads(text))
    except ValueError:
        return {}
    return st.to_set(schema, before) if isinstance(before, dict) else {}


def _refuse_conflicts(managers: _Managers, who: _Id, changed: FieldSet, forgiven: FieldSet) -> None:
    conflicts: list[tuple[_Id, str, str]] = []
    for other, owned in managers.owned.items():
        if other == who:
            continue
        found = fs.difference(fs.intersection(owned.fields, changed), forgiven)
        conflicts.extend((other, owned.api_version, path) for path in fs.paths(found))
    if not conflicts:
        return
    conflicts.sort(key=lambda c: (c[0].manager, c[2]))
    named = [(_shown(other, version), path) for other, version, path in conflicts]
    if len(named) == 1:
        text = f"Apply failed with 1 conflict: conflict with {named[0][0]}: {named[0][1]}"
    else:
        lines: list[str] = []
        for label in dict.fromkeys(n for n, _ in named):
            lines.append(f"conflicts with {label}:")
            lines.extend(f"- {path}" for n, path in named if n == label)
        text = f"Apply failed with {len(named)} conflicts: " + "\n".join(lines)
    causes = [{"reason": "FieldManagerConflict", "message": f"conflict with {n}", "field": p} for n, p in named]
    raise Conflict(text, details={"causes": causes})


def _shown(who: _Id, api_version: str) -> str:
    label = json.dumps(who.manager)
    if who.subresource:
        label += f" with subresource {json.dumps(who.subresource)}"
    return f"{label} using {api_version}" if who.operation == _UPDATE else label


def _with_last_applied(merged: JsonObject, applied: JsonObject) -> JsonObject:
    metadata = dict(object_at(applied, "metadata"))
    annotations = {k: v for k, v in object_at(metadata, "annotations").items() if k != _LAST_APPLIED}
    metadata["annotations"] = annotations
    text = json.dumps({**applied, "metadata": metadata}, separators=(",", ":"), sort_keys=True) + "\n"
    target = dict(object_at(merged, "metadata"))
    target["annotations"] = {**object_at(target, "annotations"), _LAST_APPLIED: text}
    return {**merged, "metadata": target}


def track_update(
    schema: Schema,
    live: JsonObject | None,
    updated: JsonObject,
    *,
    manager: str,
    operation: str,
    api_version: str,
    now: str,
    subresource: str = "",
) -> JsonObject:
    """`updated` with its managedFields: what changed from `live` belongs to `manager` from now on.

    Managed fields that the client sent are taken (not through a subresource); one empty entry clears them.
    """
    sent = objects_at(updated, "metadata", "managedFields")
    known = objects_at(live, "metadata", "managedFields") if live is not None else []
    if sent == [{}]:
        return _with_managers(updated, [])
    if live is not None and not known and not sent:
        return updated  # nobody has tracked it so far; the first apply will
    managers = _Managers(sent if sent and not subresource and all(str_at(e, "operation") for e in sent) else known)
    managers.before = _Managers(known).owned
    current = _without_managers(live) if live is not None else _new_object(schema)
    new = _without_managers(updated)
    difference = st.compare(schema, current, new)
    who = _identity(manager, operation, api_version, subresource)
    changed = fs.union(difference.added, difference.modified)
    tops = _not_ours(schema, subresource)
    managers.take(who, changed, difference.removed)
    mine = managers.owned.get(who)
    claimed = _strip(fs.union(mine.fields if mine else {}, changed), tops)
    managers.put(who, claimed, api_version)
    return _with_managers(new, managers.entries(who, now))
