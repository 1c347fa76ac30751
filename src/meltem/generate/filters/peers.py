"""Who calls: the caller's workload in a request header, set by the client's proxy and taken off by the server's.

In: position. Out: the HTTP filter `istio.metadata_exchange`, first of its chain; for clusters outside the mesh the
filters that take the header off again, since the outside is not to learn who works inside.

`x-meltem-peer` is `workload;namespace;canonical service;canonical revision;cluster;app;version`. A header of its own,
not `baggage`: applications pass `baggage` on to whom they call, and it is theirs. The client's proxy overwrites what an
application may have set, and the server's hands none of it on.
"""

from __future__ import annotations

from functools import lru_cache

from meltem import envoyapi as api
from meltem.generate.filters import labels

NAME = "istio.metadata_exchange"


def client() -> api.hcm.HttpFilter:
    mutation = api.header_mutation.HeaderMutation()
    mutation.mutations.request_mutations.add(
        append={
            "header": {"key": labels.PEER_HEADER, "value": f"%ENVIRONMENT({labels.OWN_PEER})%"},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }
    )
    return api.hcm.HttpFilter(name=NAME, typed_config=api.pack(mutation))


@lru_cache(maxsize=1)
def withheld() -> tuple[api.hcm.HttpFilter, ...]:
    """Upstream HTTP filters of a cluster outside the mesh. Shared: to be copied into a message, never changed."""
    mutation = api.header_mutation.HeaderMutation()
    mutation.mutations.request_mutations.add(remove=labels.PEER_HEADER)
    codec = api.upstream_codec.UpstreamCodec()
    return (
        api.hcm.HttpFilter(name=NAME, typed_config=api.pack(mutation)),
        api.hcm.HttpFilter(name="envoy.filters.http.upstream_codec", typed_config=api.pack(codec)),
    )


def server() -> api.hcm.HttpFilter:
    config = api.header_to_metadata.Config()
    for index, field in enumerate(labels.PEER_FIELDS):
        rule = config.request_rules.add(header=labels.PEER_HEADER, remove=index == len(labels.PEER_FIELDS) - 1)
        present = rule.on_header_present
        present.metadata_namespace, present.key = labels.PEER_NAMESPACE, field
        before = f"(?:[^;]*;){{{index}}}" if index else ""
        present.regex_value_rewrite.pattern.regex = f"^{before}([^;]*).*$"
        present.regex_value_rewrite.substitution = r"\1"
    return api.hcm.HttpFilter(name=NAME, typed_config=api.pack(config))
