"""ValidatingAdmissionPolicy: CEL expressions that a write must satisfy, where a binding puts them in force.

In: a write, the policies and bindings in the store. Out: a refusal (Deny), a warning (Warn), or nothing (Audit alone:
there is no audit log here). An expression that fails counts as unsatisfied, unless the policy's failurePolicy is
Ignore.
"""

from __future__ import annotations

from collections.abc import Iterator

from meltem.errors import ApiError, Invalid, MeltemError, UserError, api_error
from meltem.local.apiserver.admission.conditions import conditions_met, variables
from meltem.local.apiserver.admission.matching import Target, matching_resource, rule_matches, selected
from meltem.local.apiserver.core import Attributes, User
from meltem.local.apiserver.registry import Registry
from meltem.local.apiserver.schema.cel import compile_cel
from meltem.local.apiserver.selectors import selects
from meltem.local.apiserver.storage import Key, Store
from meltem.objects import Json, JsonObject, at, labels_of, object_at, objects_at, str_at, strings_at

_GROUP = "admissionregistration.k8s.io"
POLICIES = f"validatingadmissionpolicies.{_GROUP}"
BINDINGS = f"validatingadmissionpolicybindings.{_GROUP}"
_CODES = {"Unauthorized": 401, "Forbidden": 403, "Invalid": 422, "RequestEntityTooLarge": 413}


class PolicyRunner:
    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry

    def validate(self, attributes: Attributes, warnings: list[str]) -> None:
        """Raises the first refusal; adds warnings."""
        if attributes.resource.info.group == _GROUP:
            return
        for entry in self._store.entries(BINDINGS):
            binding = entry.object
            policy = self._store.get(Key(POLICIES, "", str_at(binding, "spec", "policyName")))
            if policy is None or not self._concerns(policy.object, binding, attributes):
                continue
            for params in self._params(policy.object, binding, attributes):
                self._enforce(policy.object, binding, attributes, params, warnings)

    def _concerns(self, policy: JsonObject, binding: JsonObject, attributes: Attributes) -> bool:
        constraints = object_at(policy, "spec", "matchConstraints")
        narrowed = object_at(binding, "spec", "matchResources")
        return self._matches(constraints, attributes, required=True) and self._matches(
            narrowed, attributes, required=False
        )

    def _matches(self, match: JsonObject, attributes: Attributes, *, required: bool) -> bool:
        target = Target.of(attributes)
        rules = objects_at(match, "resourceRules")
        if not rules and required:
            return False
        as_webhook: JsonObject = {
            "rules": [*rules],
            "matchPolicy": str_at(match, "matchPolicy") or "Equivalent",
            "namespaceSelector": object_at(match, "namespaceSelector"),
            "objectSelector": object_at(match, "objectSelector"),
        }
        if rules and matching_resource(as_webhook, target, self._registry) is None:
            return False
        excluded = objects_at(match, "excludeResourceRules")
        if any(rule_matches(rule, target, attributes.resource) for rule in excluded):
            return False
        return selected(as_webhook, attributes, self._store)

    def _params(self, policy: JsonObject, binding: JsonObject, attributes: Attributes) -> Iterator[Json]:
        """The parameter objects that the binding names; None where the policy takes none."""
        kind = object_at(policy, "spec", "paramKind")
        reference = object_at(binding, "spec", "paramRef")
        if not kind or not reference:
            yield None
            return
        api_version = str_at(kind, "apiVersion")
        group, _, version = api_version.rpartition("/")
        resource = self._registry.by_kind(group, version, str_at(kind, "kind"))
        found: list[JsonObject] = []
        if resource is not None:
            namespace = ""
            if resource.info.namespaced:
                namespace = str_at(reference, "namespace") or attributes.namespace
            name, selector = str_at(reference, "name"), at(reference, "selector")
            for entry in self._store.entries(resource.storage, namespace):
                chosen = entry.key.name == name if name else selects(selector, labels_of(entry.object))
                if chosen:
                    found.append(entry.object)
        if found:
            yield from found
        elif str_at(reference, "parameterNotFoundAction") == "Deny":
            raise _refusal(
                policy, binding, "no params found for policy binding with `Deny` parameterNotFoundAction", ""
            )

    def _enforce(
        self, policy: JsonObject, binding: JsonObject, attributes: Attributes, params: Json, warnings: list[str]
    ) -> None:
        names = self._names(policy, attributes, params)
        ignores = str_at(policy, "spec", "failurePolicy") == "Ignore"
        try:
            conditions = objects_at(policy, "spec", "matchConditions")
            if conditions and not conditions_met(conditions, attributes, object_at(names, "request", "userInfo")):
                return
            self._compose(policy, names)
        except MeltemError as error:
            if not ignores:
                self._act(policy, binding, str(error), "", warnings)
            return
        for validation in objects_at(policy, "spec", "validations"):
            text = _broken(validation, names, ignores=ignores)
            if text:
                self._act(policy, binding, text, str_at(validation, "reason"), warnings)

    def _names(self, policy: JsonObject, attributes: Attributes, params: Json) -> dict[str, Json]:
        names = variables(attributes, user_object(attributes.user))
        names["params"] = params
        namespace = self._store.get(Key("namespaces", "", attributes.namespace)) if attributes.namespace else None
        names["namespaceObject"] = namespace.object if namespace else None
        return names

    def _compose(self, policy: JsonObject, names: dict[str, Json]) -> None:
        """`variables.<name>`, each of which may use those before it."""
        composed: dict[str, Json] = {}
        names["variables"] = composed
        for item in objects_at(policy, "spec", "variables"):
            composed[str_at(item, "name")] = compile_cel(str_at(item, "expression")).evaluate(names)

    def _act(self, policy: JsonObject, binding: JsonObject, text: str, reason: str, warnings: list[str]) -> None:
        actions = strings_at(binding, "spec", "validationActions")
        if "Warn" in actions:
            warnings.append(f"Validation failed for {_said(policy, binding)}: {text}")
        if "Deny" in actions:
            raise _refusal(policy, binding, text, reason)


def _broken(validation: JsonObject, names: dict[str, Json], *, ignores: bool) -> str:
    """Why the validation is not satisfied; empty when it is."""
    expression = str_at(validation, "expression")
    try:
        if compile_cel(expression).evaluate(names) is True:
            return ""
    except UserError as error:
        return "" if ignores else f"expression '{expression}' resulted in error: {error}"
    return _message(validation, names) or f"failed expression: {expression}"


def _message(validation: JsonObject, names: dict[str, Json]) -> str:
    computed = str_at(validation, "messageExpression")
    if computed:
        try:
            text = compile_cel(computed).evaluate(names)
        except UserError:
            text = None
        if isinstance(text, str) and text.strip():
            return text
    return str_at(validation, "message")


def _said(policy: JsonObject, binding: JsonObject) -> str:
    return (
        f"ValidatingAdmissionPolicy '{str_at(policy, 'metadata', 'name')}' with binding"
        f" '{str_at(binding, 'metadata', 'name')}'"
    )


def _refusal(policy: JsonObject, binding: JsonObject, text: str, reason: str) -> ApiError:
    reason = reason or Invalid.reason
    return api_error(_CODES.get(reason, 422), reason, f"{_said(policy, binding)} denied request: {text}")


def user_object(user: User) -> JsonObject:
    """UserInfo, as expressions see it."""
    groups: list[Json] = [*user.groups]
    extra: JsonObject = {k: [*v] for k, v in user.extra.items()}
    return {"username": user.name, "groups": groups, "uid": user.uid, "extra": extra}
