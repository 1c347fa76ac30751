"""The real kubectl, as people use it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: main
        image: example.com/web:1
        ports: [{containerPort: 8080}]
"""


def test_apply_get_and_describe(api: Any, ns: str) -> None:
    assert api.kubectl("apply", "-f", "-", stdin=DEPLOYMENT, namespace=ns) == "deployment.apps/web created\n"
    assert api.kubectl("apply", "-f", "-", stdin=DEPLOYMENT, namespace=ns) == "deployment.apps/web unchanged\n"
    changed = DEPLOYMENT.replace("web:1", "web:2")
    assert "configured" in api.kubectl("apply", "-f", "-", stdin=changed, namespace=ns)
    header, row = api.kubectl("get", "deploy", namespace=ns).splitlines()
    assert header.split() == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"] and row.split()[:2] == ["web", "0/2"]
    wide = api.kubectl("get", "deploy", "-o", "wide", namespace=ns)
    assert "example.com/web:2" in wide and "app=web" in wide
    assert "web" in api.kubectl("get", "deploy", "-A", "--field-selector", "metadata.name=web")
    path = "{.items[0].spec.template.spec.containers.*.name}"
    assert api.kubectl("get", "deploy", "-l", "app!=no", "-o", f"jsonpath={path}", namespace=ns) == "main"
    assert "kind: Deployment" in api.kubectl("get", "deploy", "web", "-o", "yaml", namespace=ns)
    assert "Replicas:               2 desired" in api.kubectl("describe", "deploy", "web", namespace=ns)


def test_what_get_prints_as_a_list_can_be_applied(api: Any, ns: str) -> None:
    """kubectl checks a List with the OpenAPI document of version 2, in protobuf."""
    api.kubectl("apply", "-f", "-", stdin=DEPLOYMENT, namespace=ns)
    listed = api.kubectl("get", "deploy", "-o", "yaml", namespace=ns)
    assert "kind: List" in listed
    renewed = listed.replace("web:1", "web:2").replace("resourceVersion:", "ignored:")
    wrong = api.kubectl("apply", "-f", "-", stdin=renewed, namespace=ns, check=False)
    assert "ignored" in wrong and "configured" not in wrong
    lines = [line for line in listed.replace("web:1", "web:2").splitlines() if "resourceVersion:" not in line]
    assert "configured" in api.kubectl("apply", "-f", "-", stdin="\n".join(lines), namespace=ns)


def test_server_side_apply_and_its_conflict(api: Any, ns: str) -> None:
    told = api.kubectl("apply", "--server-side", "-f", "-", stdin=DEPLOYMENT, namespace=ns)
    assert told == "deployment.apps/web serverside-applied\n"
    other = DEPLOYMENT.replace("replicas: 2", "replicas: 5")
    arguments = ("apply", "--server-side", "--field-manager=other", "-f", "-")
    refused = api.kubectl(*arguments, stdin=other, namespace=ns, check=False)
    assert 'conflict with "kubectl"' in refused and ".spec.replicas" in refused
    forced = api.kubectl(*arguments, "--force-conflicts", stdin=other, namespace=ns)
    assert "serverside-applied" in forced


def test_label_annotate_patch_scale_delete(api: Any, ns: str) -> None:
    api.kubectl("apply", "-f", "-", stdin=DEPLOYMENT, namespace=ns)
    assert "labeled" in api.kubectl("label", "deploy", "web", "a=b", namespace=ns)
    assert "annotated" in api.kubectl("annotate", "deploy", "web", "c=d", namespace=ns)
    for kind, patch in (
        ("json", '[{"op":"replace","path":"/spec/replicas","value":3}]'),
        ("merge", '{"metadata":{"labels":{"a":null}}}'),
        ("strategic", '{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"example.com/s:1"}]}}}}'),
    ):
        assert "patched" in api.kubectl("patch", "deploy", "web", f"--type={kind}", "-p", patch, namespace=ns)
    live = json.loads(api.kubectl("get", "deploy", "web", "-o", "json", namespace=ns))
    assert live["spec"]["replicas"] == 3 and "a" not in live["metadata"].get("labels", {})
    assert len(live["spec"]["template"]["spec"]["containers"]) == 2
    assert "scaled" in api.kubectl("scale", "deploy", "web", "--replicas=1", namespace=ns)
    assert api.kubectl("delete", "deploy", "web", namespace=ns).startswith('deployment.apps "web" deleted')


def test_create_with_protobuf_bodies(api: Any, ns: str) -> None:
    """kubectl's typed clients speak protobuf."""
    made = api.kubectl("create", "configmap", "c", "--from-literal=x=1", "-o", "json", namespace=ns)
    assert json.loads(made)["data"] == {"x": "1"}
    api.kubectl("create", "secret", "generic", "s", "--from-literal=k=v", namespace=ns)
    secret = json.loads(api.kubectl("get", "secret", "s", "-o", "json", namespace=ns))
    assert (secret["type"], secret["data"]) == ("Opaque", {"k": "dg=="})
    api.kubectl("create", "serviceaccount", "bob", namespace=ns)
    api.kubectl("create", "role", "r", "--verb=get", "--resource=pods", namespace=ns)
    api.kubectl("create", "rolebinding", "rb", "--role=r", f"--serviceaccount={ns}:bob", namespace=ns)
    who = f"--as=system:serviceaccount:{ns}:bob"
    assert api.kubectl("auth", "can-i", "get", "pods", who, namespace=ns) == "yes\n"
    assert api.kubectl("auth", "can-i", "list", "pods", who, namespace=ns, check=False).startswith("no")
    api.kubectl("create", "deployment", "d", "--image=example.com/i:1", "--replicas=0", "--port=80", namespace=ns)
    made_deployment = json.loads(api.kubectl("get", "deploy", "d", "-o", "json", namespace=ns))["spec"]
    assert made_deployment["replicas"] == 0 and "paused" not in made_deployment
    api.kubectl("create", "job", "j", "--image=example.com/i:1", "--", "true", namespace=ns)
    api.kubectl("create", "ingress", "i", "--rule=example.com/*=svc:80", namespace=ns)
    api.kubectl("create", "quota", "q", "--hard=pods=3", namespace=ns)
    assert len(api.kubectl("create", "token", "bob", namespace=ns).split(".")) == 3


def test_expose_run_and_wait(api: Any, ns: str) -> None:
    api.kubectl("run", "p", "--image=example.com/i:1", "--port=80", namespace=ns)
    assert "exposed" in api.kubectl("expose", "pod", "p", "--port=8000", namespace=ns)
    service = json.loads(api.kubectl("get", "svc", "p", "-o", "json", namespace=ns))["spec"]
    assert service["ports"][0]["targetPort"] == 8000 and service["selector"] == {"run": "p"}
    assert "condition met" in api.kubectl("wait", "pod/p", "--for=jsonpath={.status.phase}=Pending", namespace=ns)
    api.kubectl("delete", "pod", "p", "--now", namespace=ns)


def test_watch_prints_changes(api: Any, ns: str) -> None:
    command = ["kubectl", "--kubeconfig", str(api.kubeconfig), "-n", ns, "get", "cm", "-w", "-o", "name"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        try:
            api.kubectl("create", "configmap", "one", namespace=ns)
            assert watching.stdout.readline() == "configmap/one\n"
            api.kubectl("create", "configmap", "two", namespace=ns)
            assert watching.stdout.readline() == "configmap/two\n"
        finally:
            watching.kill()


def test_api_resources_explain_and_whoami(api: Any) -> None:
    listed = api.kubectl("api-resources", "--api-group=apps", "-o", "wide")
    assert "deployments" in listed and "deploy" in listed
    explained = api.kubectl("explain", "deployment.spec.replicas")
    assert "FIELD: replicas <integer>" in explained
    assert "kubernetes-admin" in api.kubectl("auth", "whoami")
    assert "Server Version: v1." in api.kubectl("version")


def test_unknown_fields_are_refused(api: Any, ns: str) -> None:
    refused = api.kubectl(
        "apply", "-f", "-", stdin=DEPLOYMENT.replace("replicas: 2", "replicaz: 2"), namespace=ns, check=False
    )
    assert 'unknown field "spec.replicaz"' in refused


def test_diff_shows_the_change(api: Any, ns: str) -> None:
    api.kubectl("apply", "-f", "-", stdin=DEPLOYMENT, namespace=ns)
    told = api.kubectl("diff", "-f", "-", stdin=DEPLOYMENT.replace("web:1", "web:9"), namespace=ns, check=False)
    assert "-        - image: example.com/web:1".replace("        ", "      ") in told or "web:9" in told


def test_events_are_shown_in_both_versions(api: Any, ns: str) -> None:
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "e", "namespace": ns},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": ns},
        "reason": "Tried",
        "message": "it was tried",
        "type": "Normal",
        "lastTimestamp": "2024-01-01T00:00:00Z",
    }
    assert api.post(f"/api/v1/namespaces/{ns}/events", event).status == 201
    assert "it was tried" in api.kubectl("events", namespace=ns)
    assert "it was tried" in api.kubectl("get", "events", "--field-selector", "involvedObject.name=p", namespace=ns)
    new = api.get(f"/apis/events.k8s.io/v1/namespaces/{ns}/events/e").json
    assert new["note"] == "it was tried" and new["regarding"]["name"] == "p"


def test_edit_conflicts_and_replace(api: Any, ns: str) -> None:
    api.kubectl("create", "configmap", "c", "--from-literal=x=1", namespace=ns)
    live = json.loads(api.kubectl("get", "cm", "c", "-o", "json", namespace=ns))
    live["data"]["x"] = "2"
    assert "replaced" in api.kubectl("replace", "-f", "-", stdin=json.dumps(live), namespace=ns)
    refused = api.kubectl("replace", "-f", "-", stdin=json.dumps(live), namespace=ns, check=False)
    assert "the object has been modified" in refused
