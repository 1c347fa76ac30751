"""create, update, patch, apply and delete: what is stored, what is refused, and with which words."""

from __future__ import annotations

from typing import Any

import pytest


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def maps(ns: str) -> str:
    return f"/api/v1/namespaces/{ns}/configmaps"


def deployment(name: str = "web", replicas: int = 1) -> dict[str, Any]:
    labels = {"app": name}
    container = {"name": "main", "image": "example.com/web:1", "ports": [{"containerPort": 8080}]}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def pod(name: str, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "main", "image": "example.com/web:1"}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": containers, **spec}}


def deployments(ns: str) -> str:
    return f"/apis/apps/v1/namespaces/{ns}/deployments"


def pods(ns: str) -> str:
    return f"/api/v1/namespaces/{ns}/pods"


def test_create_sets_system_metadata(api: Any, ns: str) -> None:
    made = api.post(deployments(ns), deployment()).json
    meta = made["metadata"]
    assert meta["uid"] and meta["creationTimestamp"].endswith("Z") and meta["generation"] == 1
    assert meta["namespace"] == ns and int(meta["resourceVersion"]) > 0
    assert made["spec"]["strategy"]["type"] == "RollingUpdate"
    assert made["spec"]["template"]["spec"]["restartPolicy"] == "Always"


def test_create_twice_is_409(api: Any, ns: str) -> None:
    assert api.post(maps(ns), config_map("a")).status == 201
    answer = api.post(maps(ns), config_map("a"))
    assert answer.status == 409 and answer.json["reason"] == "AlreadyExists"
    assert answer.json["message"] == 'configmaps "a" already exists'


def test_create_in_a_missing_namespace_is_404(api: Any) -> None:
    answer = api.post(maps("no-such-namespace"), config_map("a"))
    assert answer.status == 404
    assert answer.json["message"] == 'namespaces "no-such-namespace" not found'


def test_generate_name(api: Any, ns: str) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "g-"}}
    names = {api.post(maps(ns), body).json["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3 and all(n.startswith("g-") and len(n) == 7 for n in names)


def test_the_wrong_kind_is_400(api: Any, ns: str) -> None:
    assert api.post(maps(ns), pod("a")).status == 400
    assert api.post(maps(ns), b"{not json").status == 400
    elsewhere = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "x"}}
    assert api.post(maps(ns), elsewhere).status == 400


def test_invalid_objects_are_422_with_causes(api: Any, ns: str) -> None:
    answer = api.post(maps(ns), config_map("Not_A_Name"))
    assert answer.status == 422 and answer.json["reason"] == "Invalid"
    assert answer.json["details"]["causes"][0]["field"] == "metadata.name"
    bad = deployment()
    bad["spec"]["selector"]["matchLabels"] = {"app": "other"}
    answer = api.post(deployments(ns), bad)
    assert answer.status == 422
    assert "spec.template.metadata.labels" in {c["field"] for c in answer.json["details"]["causes"]}


def test_values_of_the_wrong_type_are_400(api: Any, ns: str) -> None:
    body = deployment()
    body["spec"]["replicas"] = "two"
    answer = api.post(deployments(ns), body)
    assert answer.status == 400
    assert answer.json["message"].startswith('Deployment in version "v1" cannot be handled as a Deployment: json: ')


def test_dry_run_stores_nothing(api: Any, ns: str) -> None:
    made = api.post(f"{maps(ns)}?dryRun=All", config_map("a", x="1"))
    assert made.status == 201 and made.json["data"] == {"x": "1"}
    assert api.get(f"{maps(ns)}/a").status == 404
    assert api.post(f"{maps(ns)}?dryRun=Some", config_map("a")).status in (400, 422)


def test_field_validation(api: Any, ns: str) -> None:
    body = {**config_map("a"), "nonsense": 1}
    strict = api.post(f"{maps(ns)}?fieldValidation=Strict", body)
    assert strict.status == 400 and 'unknown field "nonsense"' in strict.json["message"]
    warned = api.post(f"{maps(ns)}?fieldValidation=Warn", body)
    assert warned.status == 201 and 'unknown field \\"nonsense\\"' in warned.headers["Warning"]
    body["metadata"] = {"name": "b"}
    ignored = api.post(f"{maps(ns)}?fieldValidation=Ignore", body)
    assert ignored.status == 201 and ignored.headers["Warning"] is None and "nonsense" not in ignored.json


def test_update_needs_the_latest_version(api: Any, ns: str) -> None:
    first = api.post(maps(ns), config_map("a", x="1")).json
    first["data"] = {"x": "2"}
    second = api.put(f"{maps(ns)}/a", first)
    assert second.status == 200 and second.json["data"] == {"x": "2"}
    stale = api.put(f"{maps(ns)}/a", first)
    assert stale.status == 409 and stale.json["reason"] == "Conflict"
    assert "the object has been modified" in stale.json["message"]


def test_update_without_change_keeps_the_version(api: Any, ns: str) -> None:
    made = api.post(maps(ns), config_map("a", x="1")).json
    again = api.put(f"{maps(ns)}/a", made).json
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


def test_generation_counts_changes_of_the_spec_only(api: Any, ns: str) -> None:
    api.post(deployments(ns), deployment())
    path = f"{deployments(ns)}/web"
    labelled = api.patch(path, {"metadata": {"labels": {"a": "b"}}}).json
    assert labelled["metadata"]["generation"] == 1
    assert api.patch(path, {"spec": {"replicas": 3}}).json["metadata"]["generation"] == 2


def test_status_is_its_own(api: Any, ns: str) -> None:
    api.post(deployments(ns), {**deployment(), "status": {"replicas": 7}})
    path = f"{deployments(ns)}/web"
    assert "replicas" not in api.get(path).json.get("status", {})
    changed = api.patch(f"{path}/status", {"status": {"replicas": 1}, "spec": {"replicas": 9}}).json
    assert changed["status"]["replicas"] == 1 and changed["spec"]["replicas"] == 1
    assert changed["metadata"]["generation"] == 1
    assert api.patch(path, {"status": {"replicas": 5}}).json["status"]["replicas"] == 1


def test_json_patch(api: Any, ns: str) -> None:
    api.post(maps(ns), config_map("a", x="1"))
    ops = [{"op": "test", "path": "/data/x", "value": "1"}, {"op": "add", "path": "/data/y", "value": "2"}]
    assert api.patch(f"{maps(ns)}/a", ops, "json-patch+json").json["data"] == {"x": "1", "y": "2"}
    failing = [{"op": "test", "path": "/data/x", "value": "no"}]
    assert api.patch(f"{maps(ns)}/a", failing, "json-patch+json").status == 422
    assert api.patch(f"{maps(ns)}/a", {"not": "a list"}, "json-patch+json").status == 400


def test_merge_patch_removes_with_null(api: Any, ns: str) -> None:
    api.post(maps(ns), config_map("a", x="1", y="2"))
    assert api.patch(f"{maps(ns)}/a", {"data": {"x": None}}).json["data"] == {"y": "2"}


def test_strategic_merge_patch_merges_containers_by_name(api: Any, ns: str) -> None:
    api.post(deployments(ns), deployment())
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "example.com/s:1"}]}}}}
    changed = api.patch(f"{deployments(ns)}/web", patch, "strategic-merge-patch+json").json
    assert {c["name"] for c in changed["spec"]["template"]["spec"]["containers"]} == {"main", "side"}


def test_unknown_patch_type_is_415(api: Any, ns: str) -> None:
    api.post(maps(ns), config_map("a"))
    assert api.patch(f"{maps(ns)}/a", {}, "nonsense+json").status == 415


def apply(api: Any, path: str, body: Any, manager: str, force: bool = False) -> Any:
    query = f"?fieldManager={manager}" + ("&force=true" if force else "")
    return api.patch(path + query, body, "apply-patch+yaml")


def test_apply_creates_then_owns(api: Any, ns: str) -> None:
    path = f"{maps(ns)}/a"
    made = apply(api, path, config_map("a", x="1", y="1"), "one")
    assert made.status == 201
    managed = made.json["metadata"]["managedFields"][0]
    assert (managed["manager"], managed["operation"]) == ("one", "Apply")
    assert managed["fieldsV1"]["f:data"] == {"f:x": {}, "f:y": {}}
    removed = apply(api, path, config_map("a", x="1"), "one")
    assert removed.status == 200 and removed.json["data"] == {"x": "1"}


def test_apply_conflicts_until_forced(api: Any, ns: str) -> None:
    path = f"{maps(ns)}/a"
    apply(api, path, config_map("a", x="1"), "one")
    refused = apply(api, path, config_map("a", x="2"), "two")
    assert refused.status == 409
    cause = refused.json["details"]["causes"][0]
    assert cause["reason"] == "FieldManagerConflict" and cause["field"] == ".data.x"
    assert 'conflict with "one"' in cause["message"]
    forced = apply(api, path, config_map("a", x="2"), "two", force=True)
    assert forced.status == 200 and forced.json["data"] == {"x": "2"}


def test_apply_needs_a_manager(api: Any, ns: str) -> None:
    assert api.patch(f"{maps(ns)}/a", config_map("a"), "apply-patch+yaml").status in (400, 422)


def test_applying_the_same_again_changes_nothing(api: Any, ns: str) -> None:
    path = f"{maps(ns)}/a"
    first = apply(api, path, config_map("a", x="1"), "one").json
    second = apply(api, path, config_map("a", x="1"), "one").json
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]


def test_updates_are_tracked_by_manager(api: Any, ns: str) -> None:
    made = api.post(f"{maps(ns)}?fieldManager=me", config_map("a", x="1")).json
    (entry,) = made["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"], entry["apiVersion"]) == ("me", "Update", "v1")


def test_delete_answers_with_status(api: Any, ns: str) -> None:
    made = api.post(maps(ns), config_map("a")).json
    answer = api.delete(f"{maps(ns)}/a").json
    assert answer["kind"] == "Status" and answer["status"] == "Success"
    assert answer["details"]["uid"] == made["metadata"]["uid"]
    assert api.delete(f"{maps(ns)}/a").status == 404


def test_delete_preconditions(api: Any, ns: str) -> None:
    api.post(maps(ns), config_map("a"))
    body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "other"}}
    assert api.delete(f"{maps(ns)}/a", body).status == 409
    assert api.get(f"{maps(ns)}/a").status == 200


def test_finalizers_hold_an_object(api: Any, ns: str) -> None:
    body = config_map("a")
    body["metadata"]["finalizers"] = ["example.com/hold"]
    api.post(maps(ns), body)
    held = api.delete(f"{maps(ns)}/a")
    assert held.status == 200 and held.json["metadata"]["deletionTimestamp"]
    more = api.patch(f"{maps(ns)}/a", {"metadata": {"finalizers": ["example.com/hold", "example.com/new"]}})
    assert more.status == 422
    gone = api.patch(f"{maps(ns)}/a", {"metadata": {"finalizers": None}})
    assert gone.status == 200
    assert api.get(f"{maps(ns)}/a").status == 404


@pytest.mark.parametrize(("policy", "finalizer"), [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")])
def test_propagation_policies_leave_finalizers(api: Any, ns: str, policy: str, finalizer: str) -> None:
    api.post(deployments(ns), deployment())
    assert api.delete(f"{deployments(ns)}/web?propagationPolicy={policy}").status == 200
    assert api.get(f"{deployments(ns)}/web").json["metadata"]["finalizers"] == [finalizer]


def test_a_running_pod_gets_its_grace_period(api: Any, ns: str) -> None:
    api.post(pods(ns), pod("a", nodeName="n1", terminationGracePeriodSeconds=7))
    marked = api.delete(f"{pods(ns)}/a").json
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 7
    assert api.get(f"{pods(ns)}/a").status == 200
    api.delete(f"{pods(ns)}/a?gracePeriodSeconds=0")
    assert api.get(f"{pods(ns)}/a").status == 404


def test_a_pod_that_runs_nowhere_goes_at_once(api: Any, ns: str) -> None:
    api.post(pods(ns), pod("a"))
    api.delete(f"{pods(ns)}/a")
    assert api.get(f"{pods(ns)}/a").status == 404


def test_delete_collection_by_label(api: Any, ns: str) -> None:
    for name in ("a", "b"):
        body = config_map(name)
        body["metadata"]["labels"] = {"n": name}
        api.post(maps(ns), body)
    assert api.delete(f"{maps(ns)}?labelSelector=n%3Da").status == 200
    assert [i["metadata"]["name"] for i in api.get(maps(ns)).json["items"]] == ["b"]


def test_pods_get_a_service_account_and_its_token(api: Any, ns: str) -> None:
    made = api.post(pods(ns), pod("a")).json["spec"]
    assert made["serviceAccountName"] == "default"
    volume = next(v for v in made["volumes"] if v["name"].startswith("kube-api-access-"))
    assert [next(iter(s)) for s in volume["projected"]["sources"]] == [
        "serviceAccountToken",
        "configMap",
        "downwardAPI",
    ]
    mount = made["containers"][0]["volumeMounts"][0]
    assert mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount" and mount["readOnly"] is True
    refused = api.post(pods(ns), pod("b", serviceAccountName="nobody"))
    assert refused.status == 403 and 'serviceaccount "nobody" not found' in refused.json["message"]


def test_limit_ranges_fill_in_defaults(api: Any, ns: str) -> None:
    limit = {"type": "Container", "default": {"memory": "64Mi"}, "max": {"memory": "128Mi"}}
    body = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"}, "spec": {"limits": [limit]}}
    assert api.post(f"/api/v1/namespaces/{ns}/limitranges", body).status == 201
    made = api.post(pods(ns), pod("a")).json
    assert made["spec"]["containers"][0]["resources"]["limits"] == {"memory": "64Mi"}


def test_a_terminating_namespace_takes_nothing_new(api: Any, ns: str) -> None:
    assert api.delete(f"/api/v1/namespaces/{ns}").json["status"]["phase"] == "Terminating"
    answer = api.post(maps(ns), config_map("a"))
    assert answer.status == 403 and answer.json["details"]["causes"][0]["reason"] == "NamespaceTerminating"
    space = api.get(f"/api/v1/namespaces/{ns}").json
    space["spec"]["finalizers"] = []
    assert api.put(f"/api/v1/namespaces/{ns}/finalize", space).status == 200
    assert api.get(f"/api/v1/namespaces/{ns}").status == 404


def test_default_namespace_stays(api: Any) -> None:
    assert api.delete("/api/v1/namespaces/default").status == 403


def test_too_deep_and_too_big_bodies_are_refused(api: Any, ns: str) -> None:
    assert api.post(maps(ns), b"[" * 100_000).status == 400
    assert api.post(maps(ns), b'{"data": {"x": "' + b"a" * (4 << 20) + b'"}}').status in (413, 422, 400)


def test_methods_that_make_no_sense_are_405(api: Any, ns: str) -> None:
    assert api.put(maps(ns), config_map("a")).status == 405
    assert api.post(f"{maps(ns)}/a", config_map("a")).status == 405
