"""IST0138: the same certificate in several Gateways of one workload: clients that reuse HTTP/2 connections get 404."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from meltem.analyze.context import Context, listed, message, spec_map
from meltem.analyze.messages import Message
from meltem.objects import JsonObject, name_of, namespace_of, objects_at, str_at
from meltem.simulate.origin import Placed


def analyze(context: Context) -> Iterable[Message]:
    users: dict[tuple[object, str], list[Placed]] = {}
    for placed in context.every("Gateway"):
        selector = tuple(sorted(spec_map(placed, "selector").items()))
        servers = objects_at(placed.obj, "spec", "servers")
        for key in {_certificate(context, placed, s) for s in servers} - {""}:
            users.setdefault((selector, key), []).append(placed)
    mine = {id(p) for p in context.own("Gateway")}
    for same in users.values():
        for placed in same if len(same) > 1 else ():
            if id(placed) in mine:
                names = listed(f"{namespace_of(p.obj)}/{name_of(p.obj)}" for p in same if p is not placed)
                text = f"The certificate is also that of {names}: clients that reuse HTTP/2 connections may get 404."
                yield message("IST0138", placed, text, "spec", "servers")


def _certificate(context: Context, placed: Placed, server: JsonObject) -> str:
    credential, file = str_at(server, "tls", "credentialName"), str_at(server, "tls", "serverCertificate")
    if not credential:
        return file
    for namespace in dict.fromkeys((_home(context, placed), namespace_of(placed.obj))):
        secret = context.find("Secret", namespace, credential)
        if secret is not None:
            text = str_at(secret, "data", "tls.crt") or str_at(secret, "data", "cert")
            return hashlib.sha256(text.encode()).hexdigest() if text else ""
    return ""


def _home(context: Context, placed: Placed) -> str:
    """The namespace of the workload, which is where its secrets are."""
    pods = context.pods("", spec_map(placed, "selector"))
    return namespace_of(pods[0]) if pods and spec_map(placed, "selector") else namespace_of(placed.obj)
