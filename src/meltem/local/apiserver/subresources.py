"""Which subresource is served by what, beyond `status`, which is an ordinary write.

In: a resource's storage name and a subresource. Out: its handler, or None where the ordinary verbs do.
"""

from __future__ import annotations

from meltem.local.apiserver.authorization import Authorizer
from meltem.local.apiserver.core import Core
from meltem.local.apiserver.dispatch import Handler
from meltem.local.apiserver.podwork import binding, ephemeral_containers, eviction, pod_binding
from meltem.local.apiserver.proxying import NodeProxy
from meltem.local.apiserver.reviews import Reviews
from meltem.local.apiserver.scale import scale
from meltem.local.apiserver.smallwrites import approval, finalize, resize
from meltem.local.apiserver.tokenrequest import TokenRequests
from meltem.local.apiserver.tokens import TokenAuthority
from meltem.local.apiserver.upstream import Upstream

_AUTHN, _AUTHZ = "authentication.k8s.io", "authorization.k8s.io"


class Subresources:
    def __init__(self, core: Core, tokens: TokenAuthority, authorizer: Authorizer, upstream: Upstream) -> None:
        reviews = Reviews(tokens, authorizer)
        proxy = NodeProxy(upstream)
        self._handlers: dict[tuple[str, str], Handler] = {
            ("pods", "log"): proxy.log,
            ("pods", "exec"): proxy.exec,
            ("pods", "attach"): proxy.attach,
            ("pods", "portforward"): proxy.port_forward,
            ("pods", "proxy"): proxy.proxy,
            ("services", "proxy"): proxy.proxy,
            ("nodes", "proxy"): proxy.proxy,
            ("pods", "binding"): pod_binding,
            ("pods", "eviction"): eviction,
            ("pods", "ephemeralcontainers"): ephemeral_containers,
            ("pods", "resize"): resize,
            ("bindings", ""): binding,
            ("namespaces", "finalize"): finalize,
            ("certificatesigningrequests.certificates.k8s.io", "approval"): approval,
            ("serviceaccounts", "token"): TokenRequests(tokens).create,
            (f"tokenreviews.{_AUTHN}", ""): reviews.token_review,
            (f"selfsubjectreviews.{_AUTHN}", ""): reviews.self_subject_review,
            (f"subjectaccessreviews.{_AUTHZ}", ""): reviews.subject_access,
            (f"localsubjectaccessreviews.{_AUTHZ}", ""): reviews.local_subject_access,
            (f"selfsubjectaccessreviews.{_AUTHZ}", ""): reviews.self_subject_access,
            (f"selfsubjectrulesreviews.{_AUTHZ}", ""): reviews.self_subject_rules,
        }

    def find(self, storage: str, subresource: str) -> Handler | None:
        if subresource == "scale":
            return scale
        return self._handlers.get((storage, subresource))
