"""The admission chain: mutating steps, then (after the object is prepared and checked) validating ones.

Order, as in kube-apiserver: namespace lifecycle, service account, limit ranges, priority, mutating webhooks; then
namespace lifecycle again, RBAC escalation, validating policies, validating webhooks.
"""

from __future__ import annotations

from meltem.local.apiserver.admission import builtin
from meltem.local.apiserver.admission.escalation import refuse_escalation
from meltem.local.apiserver.admission.policies import PolicyRunner
from meltem.local.apiserver.admission.webhooks import WebhookRunner
from meltem.local.apiserver.authorization import Authorizer
from meltem.local.apiserver.conversion import WebhookConverter
from meltem.local.apiserver.core import Attributes
from meltem.local.apiserver.registry import Registry
from meltem.local.apiserver.storage import Store
from meltem.local.apiserver.upstream import Upstream
from meltem.objects import JsonObject, copy_object


class AdmissionChain:
    def __init__(
        self, store: Store, registry: Registry, upstream: Upstream, authorizer: Authorizer, converter: WebhookConverter
    ) -> None:
        self._store = store
        self._authorizer = authorizer
        self._webhooks = WebhookRunner(store, registry, upstream, converter)
        self._policies = PolicyRunner(store, registry)

    async def mutate(self, attributes: Attributes, warnings: list[str]) -> JsonObject | None:
        """The object to go on with; raises ApiError to refuse."""
        builtin.namespace_lifecycle(self._store, attributes)
        obj = attributes.object
        if obj is None:
            await self._webhooks.mutate(attributes, warnings)
            return None
        if not attributes.subresource:
            obj = copy_object(obj)
            builtin.service_account(self._store, attributes, obj)
            builtin.limit_ranges(self._store, attributes, obj)
            builtin.priority(self._store, attributes, obj)
            builtin.default_classes(self._store, attributes, obj)
        return await self._webhooks.mutate(builtin.with_object(attributes, obj), warnings)

    async def validate(self, attributes: Attributes, warnings: list[str]) -> None:
        """Raises ApiError to refuse."""
        builtin.namespace_lifecycle(self._store, attributes)
        builtin.limit_check(self._store, attributes)
        refuse_escalation(self._authorizer, attributes)
        self._policies.validate(attributes, warnings)
        await self._webhooks.validate(attributes, warnings)
