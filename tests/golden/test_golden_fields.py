"""Every field of every resource is shown by a golden case: it changes what some proxy is sent, and Envoy takes it."""

from __future__ import annotations

import fnmatch
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import fields

NOT_SHOWN = {
    "*.PolicyTargetReference.namespace": "must be empty (the schema says so)",
    "EnvoyFilter.ListenerMatch.portName": "Istio's API has it and says that it is not implemented",
    "EnvoyFilter.PatchMatch.waypoint": "there are no waypoints",
    "EnvoyFilter.Waypoint*": "there are no waypoints",
    "Gateway.Server.defaultEndpoint": "without effect in Istio",
    "Gateway.Server.name": "a name for people",
    "Gateway.ServerPort.targetPort": "refused by validation",
    "ProxyConfig.*": "goes into the bootstrap and the injected container, not into what is sent: tests/unit/inject",
    "Sidecar.HTTPPool.h2UpgradePolicy": "towards the application the port's protocol decides",
    "Sidecar.ServerTLS.caCertCredentialName": "a Sidecar's certificates come from files",
    "Sidecar.ServerTLS.credentialName*": "refused by validation",
    "Sidecar.ServerTLS.httpsRedirect": "refused by validation",
    "Sidecar.ServerTLS.subjectAltNames": "refused by validation",
    "Sidecar.ServerTLS.tlsCertificates": "refused by validation",
    "Sidecar.SidecarPort.name": "a name for people; the protocol says what is spoken",
    "Sidecar.SidecarPort.targetPort": "refused by validation",
    "Sidecar.TLSCertificate.*": "refused by validation",
    "*.TLSCertificate.caCertificates": "without effect in Istio",
    "Telemetry.Metrics.reportingInterval": "bytes of TCP are counted when a connection ends",
    "VirtualService.FaultAbort.http2Error": "refused by validation",
    "VirtualService.FaultDelay.exponentialDelay": "refused by validation",
    "VirtualService.TCPMatch.sourceSubnet": "without effect in Istio",
    "WorkloadGroup.*": "a template that istiod copies when a machine registers itself: tests/unit/controlplane",
    "*.imagePull*": "how istiod fetches an image",
    "*.verificationKey": "without effect in Istio",
}
"""Patterns of fields, and why no case can show them."""


@pytest.fixture(scope="module")
def cases() -> fields.Cases:
    return fields.Cases()


def excused(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in NOT_SHOWN)


def test_every_field_is_shown(cases: fields.Cases) -> None:
    """A field that is listed here is read by nobody, or no case sets it where it matters: see fields.py."""
    assert [name for name in fields.known() if not excused(name) and not cases.shows(name)] == []


def test_the_excuses_are_needed(cases: fields.Cases) -> None:
    """A pattern that fits no field any more, or only fields that are shown, is to be deleted."""
    idle = [p for p in NOT_SHOWN if all(cases.shows(n) for n in fields.known() if fnmatch.fnmatchcase(n, p))]
    assert idle == []
