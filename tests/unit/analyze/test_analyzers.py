# ruff: noqa: E501  (each fault is one line of YAML)
"""Every analyzer: YAML that has the fault, and the codes that are told of it."""

from __future__ import annotations

import pytest

from meltem.analyze import across
from meltem.analyze.analyzers import ANALYZERS
from meltem.analyze.context import Context
from meltem.analyze.messages import CODES, Message, Suppression
from meltem.analyze.run import run
from meltem.simulate import imagined, origin, world

N, S, V = "networking.istio.io/v1", "security.istio.io/v1", "v1"
WEB = """
apiVersion: v1
kind: Namespace
metadata: {name: default, labels: {istio-injection: enabled}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {template: {metadata: {labels: {app: web, version: v1}}, spec: {containers: [{name: app}]}}}
---
"""


def analyzed(text: str, *suppressions: Suppression) -> list[Message]:
    placed = origin.read_text(WEB + text, "mesh.yaml", "default")
    mesh = world.build(imagined.complete(placed, gateways=False))
    mine = {world.key_of(p.obj) for p in placed}
    return run(Context(mesh, "istio-system", lambda p: world.key_of(p.obj) in mine), suppressions=suppressions)


def thing(kind: str, spec: str, name: str = "x", api: str = N, meta: str = "") -> str:
    return f"apiVersion: {api}\nkind: {kind}\nmetadata: {{name: {name}{meta}}}\nspec: {spec}\n---\n"


CASES: dict[str, str] = {
    "IST0002": thing("VirtualService", "{hosts: [web], http: [{fault: {delay: {percent: 5, fixedDelay: 1s}}, route: [{destination: {host: web}}]}]}"),
    "IST0101": thing("VirtualService", "{hosts: [web], http: [{route: [{destination: {host: nobody}}]}]}"),
    "IST0102": "apiVersion: v1\nkind: Namespace\nmetadata: {name: bare}\n",
    "IST0103": thing("Pod", "{containers: [{name: app}]}", api=V),
    "IST0106": thing("VirtualService", "{hosts: [web], http: [{route: [{destination: {host: web}, weight: -1}]}]}"),
    "IST0107": thing("Service", "{ports: [{name: http, port: 80}]}", api=V, meta=", annotations: {sidecar.istio.io/proxyCPU: '1'}"),
    "IST0108": thing("Service", "{ports: [{name: http, port: 80}]}", api=V, meta=", annotations: {sidecar.istio.io/wrong: '1'}"),
    "IST0125": thing("Pod", "{containers: [{name: app}]}", api=V, meta=", annotations: {traffic.sidecar.istio.io/excludeOutboundPorts: 'eighty'}"),
    "IST0140": thing("VirtualService", "{hosts: [web], http: [{route: [{destination: {host: web, subset: v1}}]}]}", "split")
    + thing("VirtualService", "{hosts: [a.com], gateways: [gw], http: [{route: [{destination: {host: web}}]}]}", "door"),
    "IST0148": "apiVersion: v1\nkind: Namespace\nmetadata: {name: bare}\n---\napiVersion: v1\nkind: ConfigMap\n"
    "metadata: {name: istio-sidecar-injector, namespace: istio-system}\n"
    "data: {values: '{sidecarInjectorWebhook: {enableNamespacesByDefault: true}}'}\n---\n",
    "IST0109": thing("VirtualService", "{hosts: [web], http: [{route: [{destination: {host: web}}]}]}", "a")
    + thing("VirtualService", "{hosts: [web.default.svc.cluster.local], http: [{route: [{destination: {host: web}}]}]}", "b"),
    "IST0110": thing("Sidecar", "{workloadSelector: {labels: {app: web}}}", "a")
    + thing("Sidecar", "{workloadSelector: {labels: {version: v1}}}", "b"),
    "IST0111": thing("Sidecar", "{egress: [{hosts: ['./*']}]}", "a") + thing("Sidecar", "{egress: [{hosts: ['./*']}]}", "b"),
    "IST0112": thing("Service", "{ports: [{name: http, port: 80}, {name: http-b, port: 81}]}", "two", V)
    + thing("VirtualService", "{hosts: [two], http: [{route: [{destination: {host: two}}]}]}"),
    "IST0116": thing("Service", "{selector: {app: web}, ports: [{name: tcp, port: 80}]}", "other", V),
    "IST0118": thing("Service", "{ports: [{name: stuff, port: 80}]}", "odd", V),
    "IST0123": "apiVersion: v1\nkind: Namespace\nmetadata: {name: both, labels: {istio-injection: enabled, istio.io/rev: x}}\n",
    "IST0127": thing("AuthorizationPolicy", "{selector: {matchLabels: {app: nobody}}}", api=S),
    "IST0128": thing("DestinationRule", "{host: web, trafficPolicy: {tls: {mode: SIMPLE}}}"),
    "IST0129": thing("DestinationRule", "{host: web, trafficPolicy: {portLevelSettings: [{port: {number: 80}, tls: {mode: SIMPLE}}]}}"),
    "IST0130": thing("VirtualService", "{hosts: [web], http: [{route: [{destination: {host: web}}]}, {route: [{destination: {host: web}}]}]}"),
    "IST0131": thing("VirtualService", "{hosts: [web], http: [{match: [{uri: {exact: /a}}], route: [{destination: {host: web}}]}, {match: [{uri: {exact: /a}}, {uri: {exact: /b}}], route: [{destination: {host: web}}]}]}"),
    "IST0132": thing("Gateway", "{selector: {app: web}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [a.com]}]}", "g")
    + thing("VirtualService", "{hosts: [b.com], gateways: [g], http: [{route: [{destination: {host: web}}]}]}"),
    "IST0134": thing("ServiceEntry", "{hosts: [a.com], ports: [{number: 5432, name: tcp, protocol: TCP}]}"),
    "IST0137": thing("Service", "{selector: {app: web}, ports: [{name: http, port: 90, targetPort: 80}]}", "other", V),
    "IST0144": thing("Pod", "{containers: [{name: app, securityContext: {runAsUser: 1337}}]}", api=V),
    "IST0145": "".join(thing("Gateway", "{selector: {app: web}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}", n) for n in "ab"),
    "IST0150": thing("Service", "{type: ExternalName, externalName: a.com, ports: [{name: stuff, port: 80}]}", "odd", V),
    "IST0151": thing("EnvoyFilter", "{configPatches: [{applyTo: HTTP_FILTER, patch: {operation: INSERT_BEFORE, value: {name: a}}}]}", api="networking.istio.io/v1alpha3"),
    "IST0152": thing("EnvoyFilter", "{configPatches: [{applyTo: CLUSTER, patch: {operation: REPLACE}}]}", api="networking.istio.io/v1alpha3"),
    "IST0153": thing("EnvoyFilter", "{configPatches: [{applyTo: ROUTE_CONFIGURATION, patch: {operation: ADD}}]}", api="networking.istio.io/v1alpha3"),
    "IST0154": thing("EnvoyFilter", "{configPatches: [{applyTo: HTTP_ROUTE, patch: {operation: REMOVE}}]}", api="networking.istio.io/v1alpha3"),
    "IST0163": thing("ValidatingWebhookConfiguration", "{}", "istiod-default-validator", "admissionregistration.k8s.io/v1").replace(
        "spec: {}", "webhooks: [{name: a, clientConfig: {}}]"),
    "IST0164": thing("MutatingWebhookConfiguration", "{}", "istio-sidecar-injector", "admissionregistration.k8s.io/v1").replace(
        "spec: {}", "webhooks: [{name: a, clientConfig: {url: 'https://10.0.0.1:15017/inject'}}]"),
    "IST0165": thing("VirtualService", "{hosts: [a.com], gateways: [default/x-istio-autogenerated-k8s-gateway-http], http: [{route: [{destination: {host: web}}]}]}"),
    "IST0166": thing("Pod", "{containers: [{name: app}]}", "gw-1", V, ", labels: {app: gw, gateway.networking.k8s.io/gateway-name: gw}")
    + thing("AuthorizationPolicy", "{selector: {matchLabels: {app: gw}}}", api=S),
    "IST0176": thing("CustomResourceDefinition", "{}", "grpcroutes.gateway.networking.k8s.io", "apiextensions.k8s.io/v1", ", annotations: {gateway.networking.k8s.io/bundle-version: v1.0.0}"),
    "IST0162": thing("Gateway", "{selector: {app: web}, servers: [{port: {number: 8443, name: http, protocol: HTTP}, hosts: ['*']}]}"),
    "IST0173": thing("DestinationRule", "{host: web, subsets: [{name: v9, labels: {version: v9}}]}"),
    "IST0174": thing("DestinationRule", "{host: nobody}"),
    "IST0177": thing("ServiceEntry", "{hosts: [a.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}", "a")
    + thing("ServiceEntry", "{hosts: [a.com], resolution: DNS, ports: [{number: 80, name: tls, protocol: TLS}]}", "b"),
}  # fmt: skip


def test_a_healthy_mesh_has_no_finding() -> None:
    assert analyzed("") == []


@pytest.mark.parametrize("code", CASES)
def test_the_fault_is_found(code: str) -> None:
    found = analyzed(CASES[code])
    assert code in {m.code for m in found}, [str(m) for m in found]
    assert not [m for m in found if m.code == "IST0001"]


HOOKS = "admissionregistration.k8s.io/v1"
POD = "{containers: [{name: app}]}"


def gateway(name: str, selector: str, hosts: str, tls: str = "") -> str:
    server = f"{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: [{hosts}]{tls}}}"
    return thing("Gateway", f"{{selector: {selector}, servers: [{server}]}}", name)


def patched(apply_to: str, operation: str) -> str:
    spec = f"{{configPatches: [{{applyTo: {apply_to}, patch: {{operation: {operation}}}}}]}}"
    return thing("EnvoyFilter", spec, api="networking.istio.io/v1alpha3")


def injector(name: str, selector: str) -> str:
    hook = f"{{name: {name}.istio.io, namespaceSelector: {selector}, clientConfig: {{url: 'https://a.test/'}}}}"
    return thing("MutatingWebhookConfiguration", "{}", name, HOOKS).replace("spec: {}", f"webhooks: [{hook}]")


def entry(name: str, protocol: str, export: str) -> str:
    ports = f"[{{number: 80, name: p, protocol: {protocol}}}]"
    return thing(
        "ServiceEntry",
        f"{{hosts: [a.com], resolution: DNS, exportTo: {export}, ports: {ports}}}",
        name,
        meta=f", namespace: {name}",
    )


SAME_POD = gateway("a", "{app: web}", "x.com") + gateway("b", "{version: v1}", "x.com")
ENABLED = "{matchLabels: {istio-injection: enabled}}"
WITH_REVISION = "{matchExpressions: [{key: istio.io/rev, operator: In, values: [x]}, {key: istio-injection, operator: DoesNotExist}]}"
NODE = "apiVersion: v1\nkind: Node\nmetadata: {name: node-1, labels: {topology.kubernetes.io/zone: z1}}\n---\n"
ON_NODE = NODE + thing(
    "Pod",
    "{nodeName: node-1, containers: [{name: app}, {name: istio-proxy}]}",
    "web-9",
    V,
    ", labels: {app: web, version: v9}",
)


def zoned(zone: str) -> str:
    labels = f"{{version: v9, topology.kubernetes.io/zone: {zone}}}"
    return ON_NODE + thing("DestinationRule", f"{{host: web, subsets: [{{name: z, labels: {labels}}}]}}")


def images(revision: str, tag: str) -> str:
    labels = "{istio-injection: enabled}" if not revision else f"{{istio.io/rev: {revision}}}"
    name = "istio-sidecar-injector" + (f"-{revision}" if revision else "")
    values = f'\'{{"global": {{"hub": "h", "tag": "{tag}", "proxy": {{"image": "proxyv2"}}}}}}\''
    return (
        f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: other, labels: {labels}}}\n---\napiVersion: v1\nkind: ConfigMap\n"
        f"metadata: {{name: {name}, namespace: istio-system}}\ndata: {{values: {values}}}\n---\n"
    ) + thing("Pod", "{containers: [{name: istio-proxy, image: 'h/proxyv2:1'}]}", "p", V, ", namespace: other")


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        pytest.param(SAME_POD, "IST0145", True, id="gateways with one pod"),
        pytest.param(SAME_POD.replace("version: v1", "version: v2"), "IST0145", False, id="gateways with no pod in common"),
        pytest.param(gateway("a", "{app: web}", "'*'") + gateway("b", "{app: web}", "x.com"), "IST0145", False, id="a host beside a wildcard"),
        pytest.param(gateway("a", "{app: web}", "./x.com") + gateway("b", "{app: web}", "default/x.com"), "IST0145", True, id="own namespace by name"),
        pytest.param(patched("VIRTUAL_HOST", "REPLACE"), "IST0152", False, id="a virtual host can be replaced"),
        pytest.param(patched("CLUSTER", "REMOVE"), "IST0151", True, id="removing depends on the order"),
        pytest.param(patched("CLUSTER", "MERGE"), "IST0151", False, id="merging does not"),
        pytest.param(injector("one", ENABLED) + injector("two", ENABLED), "IST0139", True, id="injectors that both take a pod"),
        pytest.param(injector("one", ENABLED) + injector("two", WITH_REVISION), "IST0139", False, id="injectors that do not"),
        pytest.param(entry("n1", "HTTP", "['.']") + entry("n2", "TLS", "['.']"), "IST0177", False, id="entries that nobody sees together"),
        pytest.param(entry("n1", "HTTP", "['.']") + entry("n2", "TLS", "[n1]"), "IST0177", True, id="entries that one namespace sees"),
        pytest.param(thing("Telemetry", "{selector: {matchLabels: {app: nobody}}}", api="telemetry.istio.io/v1"), "IST0101", True, id="telemetry of nobody"),
        pytest.param(thing("AuthorizationPolicy", "{rules: [{from: [{source: {notNamespaces: [gone]}}]}]}", api=S), "IST0101", True, id="a namespace that is not there"),
        pytest.param(thing("AuthorizationPolicy", "{rules: [{from: [{source: {namespaces: ['def*']}}]}]}", api=S), "IST0101", False, id="a wildcard of namespaces"),
        pytest.param(thing("AuthorizationPolicy", "{rules: [{}]}", api=S, meta=", namespace: empty"), "IST0127", True, id="a policy of an empty namespace"),
        pytest.param(thing("Service", "{type: ExternalName, externalName: a.com, ports: [{name: tcp, port: 443}]}", "odd", V), "IST0150", True, id="an outer name with a TCP port"),
        pytest.param("apiVersion: v1\nkind: Namespace\nmetadata: {name: quiet, labels: {istio-injection: disabled, istio.io/rev: x}}\n", "IST0123", False, id="a namespace that says no"),
        pytest.param(zoned("z1"), "IST0173", False, id="a subset of a zone"),
        pytest.param(zoned("z2"), "IST0173", True, id="a subset of another zone"),
        pytest.param(images("", "2"), "IST0158", True, id="proxies of an old image"),
        pytest.param(images("x", "2"), "IST0158", True, id="proxies of an old image of a revision"),
        pytest.param(images("", "1"), "IST0158", False, id="proxies of the image"),
        pytest.param(
            gateway("a", "{app: web}", "a.com, b.com") + thing("VirtualService", "{hosts: [b.com, c.com], gateways: [a], http: [{route: [{destination: {host: web}}]}]}"),
            "IST0132", False, id="a gateway for some of the hosts"),
    ],
)  # fmt: skip
def test_what_is_told_and_what_is_not(text: str, code: str, told: bool) -> None:
    found = analyzed(text)
    assert (code in {m.code for m in found}) is told, [str(m) for m in found]
    assert not [m for m in found if m.code == "IST0001"]


MESH_MAP = """
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "TEXT"}
"""


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("accessLogFile: [1]", "IST0106", "mesh: accessLogFile expected a string"),
        ("connectTimeout: -1s", "IST0106", "connectTimeout"),
        ("{mtls: [", "IST0106", "is not valid YAML"),
        ("{conectTimeout: 3s}", "IST0133", "mesh has no field conectTimeout: it is ignored"),
    ],
)
def test_settings_of_the_mesh_that_istiod_cannot_use(text: str, code: str, words: str) -> None:
    (found,) = (m for m in analyzed(MESH_MAP.replace("TEXT", text)) if m.kind == "ConfigMap")
    assert found.code == code
    assert words in found.text


def test_findings_name_the_line_of_the_field() -> None:
    found = next(m for m in analyzed(CASES["IST0101"]) if m.code == "IST0101")
    assert found.place == "mesh.yaml:19"
    assert str(found).startswith(
        "Error [IST0101] (VirtualService default/x mesh.yaml:19) Referenced host not found: nobody"
    )


def test_findings_can_be_suppressed_by_flag_and_by_annotation() -> None:
    assert "IST0174" not in {
        m.code for m in analyzed(CASES["IST0174"], Suppression("IST0174", "DestinationRule *.default"))
    }
    quiet = CASES["IST0174"].replace(
        "{name: x}", "{name: x, annotations: {galley.istio.io/analyze-suppress: 'IST017*'}}"
    )
    assert "IST0174" not in {m.code for m in analyzed(quiet)}


def test_every_code_has_a_name_and_a_level() -> None:
    assert all(name and level is not None for name, level in CODES.values())
    assert all(what for _, what in ANALYZERS.values())


def test_a_rule_that_is_never_used_is_told_of_once() -> None:
    found = [m for m in analyzed(CASES["IST0130"]) if "never used" in m.text]
    assert {m.code for m in found} == {"IST0130"}


def test_what_files_do_not_hold_may_be_there_all_the_same() -> None:
    gateway = thing(
        "Gateway",
        "{selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}",
    )
    placed = origin.read_text(WEB + gateway, "mesh.yaml", "default")
    mesh = world.build(imagined.complete(placed, gateways=False))
    codes = {p: {m.code for m in run(Context(mesh, "istio-system", lambda _p: True, partial=p))} for p in (False, True)}
    assert "IST0101" in codes[False]
    assert "IST0101" not in codes[True]


def test_services_that_are_not_the_same_in_all_clusters() -> None:
    def cluster(spec: str) -> Context:
        placed = origin.read_text(thing("Service", spec, "shop", V), "mesh.yaml", "default")
        return Context(world.build(placed), "istio-system", lambda _p: True)

    home = cluster("{clusterIP: 10.0.0.1, ports: [{name: http, port: 80, nodePort: 30001}]}")
    same = cluster(
        "{clusterIP: 10.9.9.9, type: ClusterIP, ports: [{name: http, port: 80, targetPort: 80, protocol: TCP}]}"
    )
    assert list(across.analyze({"": home, "same": same})) == []
    other = cluster("{clusterIP: None, ports: [{name: http, port: 81}]}")
    (found,) = across.analyze({"": home, "same": same, "other": other})
    assert found.code == "IST0170" and found.name == "shop"
    assert "clusters this one, other: one is headless and one is not; their ports differ" in found.text
