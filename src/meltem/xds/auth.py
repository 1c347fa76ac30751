"""Who may connect to the discovery service, and as which proxy.

In: a call's credentials (service account token; client certificate where TLS verified one). Out: the caller's identity,
or a refusal. A proxy may only claim the namespace and the service account of its identity. On the plaintext port there
is no identity, as in Istio (which expects it to be closed, or to be inside a trusted network).
"""

from __future__ import annotations

import msgspec

from meltem.ca.identity import CallerIdentity
from meltem.errors import UserError
from meltem.view.proxy import Proxy


class NotYours(UserError):
    """A proxy claims an identity that its credentials do not have."""


def identified(proxy: Proxy, caller: CallerIdentity | None) -> Proxy:
    """The proxy with the service account that it has proven. Raises NotYours, worded for the log, where it says that it
    is somebody else than `caller`."""
    if caller is None:
        return proxy
    if proxy.namespace != caller.namespace:
        raise NotYours(
            f"{proxy.id} says that it is in namespace {proxy.namespace!r}, but its identity is service account "
            f"{caller.namespace}/{caller.service_account}",
            remedy="A proxy may only connect with a token of its own namespace.",
        )
    if proxy.service_account and proxy.service_account != caller.service_account:
        raise NotYours(
            f"{proxy.id} says that its service account is {proxy.service_account!r}, but its identity is "
            f"{caller.namespace}/{caller.service_account}"
        )
    return msgspec.structs.replace(proxy, service_account=caller.service_account, proven=True)
