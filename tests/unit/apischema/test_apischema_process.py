"""Pruning, defaulting and validation, as Kubernetes does them. The messages were compared with a real API server's."""

from __future__ import annotations

import pytest

from meltem.local.apiserver.schema.process import decode_problem, default, invalid, prune, validate
from meltem.local.apiserver.schema.types import builtin_schema, crd_schema
from meltem.objects import JsonObject, at, copy_object, object_at

POD = builtin_schema("", "v1", "Pod")
DEPLOYMENT = builtin_schema("apps", "v1", "Deployment")
SERVICE = builtin_schema("", "v1", "Service")


def pod(**container: object) -> JsonObject:
    return {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "nginx:1", **container}]}}  # type: ignore[dict-item]


def deployment(**spec: object) -> JsonObject:
    labels: JsonObject = {"app": "a"}
    template: JsonObject = {"metadata": {"labels": labels}, "spec": pod()["spec"]}
    return {"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": labels}, "template": template, **spec}}  # type: ignore[dict-item]


def problems(schema: object, obj: JsonObject, old: JsonObject | None = None) -> list[str]:
    assert isinstance(schema, type(POD))
    before = default(schema, prune(schema, old)[0]) if old is not None else None
    return [str(e) for e in validate(schema, default(schema, prune(schema, obj)[0]), before)]


def test_prune_names_unknown_fields_and_leaves_the_original() -> None:
    obj = pod(foo=1)
    object_at(obj, "spec")["bar"] = {}
    before = copy_object(obj)
    pruned, unknown = prune(POD, obj)
    assert unknown == ["spec.containers[0].foo", "spec.bar"] and obj == before
    assert at(pruned, "spec", "containers", 0, "foo") is None


def test_decoding_drops_what_go_would_not_write_back() -> None:
    obj: JsonObject = {"metadata": {"name": "p", "creationTimestamp": None, "labels": {}}, "spec": {"volumes": []}}
    assert prune(POD, obj)[0] == {"metadata": {"name": "p"}, "spec": {}}


def test_quantities_become_canonical() -> None:
    spec = prune(POD, pod(resources={"limits": {"cpu": "0.5", "memory": "1024Mi"}}))[0]
    assert at(spec, "spec", "containers", 0, "resources", "limits") == {"cpu": "500m", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.2", "IfNotPresent"),
        ("host:5000/nginx", "Always"),
        ("nginx@sha256:00", "IfNotPresent"),
    ],
)
def test_pull_policy_follows_the_tag(image: str, policy: str) -> None:
    assert at(default(POD, pod(image=image)), "spec", "containers", 0, "imagePullPolicy") == policy


def test_pod_defaults() -> None:
    filled = default(POD, pod(resources={"limits": {"cpu": "1"}}, ports=[{"containerPort": 80}]))
    spec = object_at(filled, "spec")
    assert (spec["restartPolicy"], spec["dnsPolicy"], spec["terminationGracePeriodSeconds"]) == (
        "Always",
        "ClusterFirst",
        30,
    )
    assert at(spec, "containers", 0, "resources", "requests") == {"cpu": "1"}
    assert at(spec, "containers", 0, "ports", 0, "protocol") == "TCP"
    assert spec["enableServiceLinks"] is True
    assert "enableServiceLinks" not in object_at(default(DEPLOYMENT, deployment()), "spec", "template", "spec")


def test_workload_defaults() -> None:
    spec = object_at(default(DEPLOYMENT, deployment()), "spec")
    assert spec["replicas"] == 1 and spec["progressDeadlineSeconds"] == 600
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}


def test_defaulting_twice_changes_nothing() -> None:
    for schema, obj in ((POD, pod()), (DEPLOYMENT, deployment())):
        once = default(schema, obj)
        assert default(schema, once) == once


def test_job_selects_its_own_pods() -> None:
    schema = builtin_schema("batch", "v1", "Job")
    job: JsonObject = {"metadata": {"name": "j", "uid": "u-1"}, "spec": {"template": {"spec": {}}}}
    filled = default(schema, job)
    assert at(filled, "spec", "selector") == {"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}}
    assert object_at(filled, "spec", "template", "metadata", "labels")["job-name"] == "j"


def test_secret_strings_become_data_and_a_namespace_gets_its_label() -> None:
    secret = default(builtin_schema("", "v1", "Secret"), {"stringData": {"a": "b"}})
    assert secret == {"type": "Opaque", "data": {"a": "Yg=="}}
    space = default(builtin_schema("", "v1", "Namespace"), {"metadata": {"name": "n"}})
    assert object_at(space, "metadata", "labels") == {"kubernetes.io/metadata.name": "n"}
    assert at(space, "spec", "finalizers") == ["kubernetes"]
    gone: JsonObject = {"metadata": {"name": "n", "deletionTimestamp": "x"}, "spec": {}}
    assert at(default(builtin_schema("", "v1", "Namespace"), gone), "spec", "finalizers") is None


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (pod(), []),
        (pod(image=""), ["spec.containers[0].image: Required value"]),
        (
            pod(ports=[{"containerPort": 70000}]),
            ["spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"],
        ),
        (
            pod(volumeMounts=[{"name": "v", "mountPath": "/x"}]),
            ['spec.containers[0].volumeMounts[0].name: Not found: "v"'],
        ),
        (
            pod(imagePullPolicy="Foo"),
            [
                'spec.containers[0].imagePullPolicy: Unsupported value: "Foo": '
                'supported values: "Always", "IfNotPresent", "Never"'
            ],
        ),
        (pod(livenessProbe={}), ["spec.containers[0].livenessProbe: Required value: must specify a handler type"]),
        (
            pod(resources={"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
            ['spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1'],
        ),
    ],
)
def test_pod_rules(obj: JsonObject, expected: list[str]) -> None:
    assert problems(POD, obj) == expected


def test_deployment_rules() -> None:
    assert problems(DEPLOYMENT, deployment()) == []
    assert problems(DEPLOYMENT, deployment(replicas=-1)) == [
        "spec.replicas: Invalid value: -1: must be greater than or equal to 0"
    ]
    assert problems(DEPLOYMENT, deployment(selector={"matchLabels": {"app": "b"}})) == [
        'spec.template.metadata.labels: Invalid value: {"app":"a"}: `selector` does not match template `labels`'
    ]


def test_what_may_not_change() -> None:
    changed = pod()
    object_at(changed, "spec")["restartPolicy"] = "Never"
    assert problems(POD, changed, pod())[0].startswith("spec: Forbidden: pod updates may not change fields other than")
    assert problems(POD, pod(image="nginx:2"), pod()) == []
    both: JsonObject = {"app": "a", "x": "y"}
    template: JsonObject = {"metadata": {"labels": both}, "spec": pod()["spec"]}
    moved = deployment(selector={"matchLabels": both}, template=template)
    assert problems(DEPLOYMENT, moved, deployment()) == [
        'spec.selector: Invalid value: {"matchLabels":{"app":"a","x":"y"}}: field is immutable'
    ]


def test_service_rules() -> None:
    def service(*ports: JsonObject) -> JsonObject:
        return {"metadata": {"name": "s"}, "spec": {"ports": list(ports)}}

    assert problems(SERVICE, service({"port": 70000})) == [
        "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
        "spec.ports[0].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
    ]
    assert problems(SERVICE, service({"port": 80}, {"port": 81})) == [
        "spec.ports[0].name: Required value",
        "spec.ports[1].name: Required value",
    ]


def test_names_and_labels() -> None:
    obj = pod()
    obj["metadata"] = {"name": "A", "labels": {"a b": "c d"}}
    found = problems(POD, obj)
    assert [e.partition(":")[0] for e in found] == ["metadata.name", "metadata.labels", "metadata.labels"] or len(
        found
    ) == 2
    assert found[0].startswith('metadata.name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of')


def test_wrong_types_are_refused_in_the_decoders_words() -> None:
    obj = deployment(replicas="3")
    found = decode_problem(DEPLOYMENT, obj)
    assert found == "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
    assert decode_problem(DEPLOYMENT, deployment()) == ""


def test_status_error() -> None:
    errors = validate(DEPLOYMENT, default(DEPLOYMENT, deployment(replicas=-1)), None)
    error = invalid("apps", "Deployment", "d", errors)
    assert error.message == (
        'Deployment.apps "d" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0'
    )
    causes = error.details["causes"]
    assert isinstance(causes, list) and causes[0]["field"] == "spec.replicas"


CUSTOM: JsonObject = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "required": ["size"],
            "properties": {
                "size": {"type": "integer", "minimum": 1, "maximum": 10},
                "mode": {"type": "string", "enum": ["a", "b"], "default": "a"},
                "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 4, "nullable": True},
                "port": {"x-kubernetes-int-or-string": True},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "items": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["n"],
                    "items": {"type": "object", "required": ["n"], "properties": {"n": {"type": "string"}}},
                },
                "a": {"type": "string"},
                "b": {"type": "string"},
            },
            "oneOf": [
                {"not": {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}},
                {"required": ["a"]},
                {"required": ["b"]},
            ],
            "x-kubernetes-validations": [
                {"rule": "self.size != 7", "message": "seven is taken"},
                {
                    "rule": "self.size >= oldSelf.size",
                    "messageExpression": "'was ' + string(oldSelf.size)",
                    "fieldPath": ".size",
                },
            ],
        }
    },
}
SCHEMA = crd_schema(CUSTOM)
SKIPPED = (
    "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)


def custom(**spec: object) -> JsonObject:
    return {"metadata": {"name": "c"}, "spec": {"size": 2, **spec}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, []),
        ({"size": None}, ["spec.size: Required value", SKIPPED]),
        ({"size": 11}, ["spec.size: Invalid value: 11: spec.size in body should be less than or equal to 10"]),
        ({"mode": "c"}, ['spec.mode: Unsupported value: "c": supported values: "a", "b"']),
        ({"name": "A"}, ["spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$'"]),
        ({"name": "abcde"}, ["spec.name: Too long: may not be more than 4 bytes", SKIPPED]),
        ({"name": None}, []),
        ({"port": "http"}, []),
        ({"port": 80}, []),
        ({"size": 7}, ['spec: Invalid value: "object": seven is taken']),
        ({"items": [{"n": "x"}, {"n": "x"}]}, ['spec.items[1]: Duplicate value: {"n":"x"}']),
        (
            {"a": "1", "b": "2"},
            [
                'spec: Invalid value: "object": "spec" must validate one and only one schema (oneOf). '
                "Found 2 valid alternatives"
            ],
        ),
    ],
)
def test_custom_resource_rules(spec: JsonObject, expected: list[str]) -> None:
    assert problems(SCHEMA, custom(**spec)) == expected


def test_a_wrong_type_in_a_custom_resource() -> None:
    assert problems(SCHEMA, custom(size="x")) == [
        'spec.size: Invalid value: "x": spec.size in body must be of type integer: "string"',
        SKIPPED,
    ]


def test_rules_that_compare_with_the_old_object() -> None:
    assert problems(SCHEMA, custom(size=1), custom(size=2)) == ['spec.size: Invalid value: "object": was 2']
    assert problems(SCHEMA, custom(size=3), custom(size=2)) == []


def test_custom_resources_are_pruned_and_defaulted() -> None:
    obj = custom(free={"x": {"y": 1}}, other=1, mode=None)
    pruned, unknown = prune(SCHEMA, obj)
    assert unknown == ["spec.other"] and at(pruned, "spec", "free", "x", "y") == 1
    assert at(default(SCHEMA, pruned), "spec", "mode") == "a"


def test_crd_rules() -> None:
    schema = builtin_schema("apiextensions.k8s.io", "v1", "CustomResourceDefinition")
    version: JsonObject = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": CUSTOM}}
    spec: JsonObject = {
        "group": "ex.io",
        "scope": "Namespaced",
        "names": {"plural": "foos", "kind": "Foo"},
        "versions": [version],
    }
    crd: JsonObject = {"metadata": {"name": "foos.ex.io"}, "spec": spec}
    assert problems(schema, crd) == []
    assert problems(schema, {**crd, "metadata": {"name": "foo"}}) == [
        'metadata.name: Invalid value: "foo": must be spec.names.plural+"."+spec.group'
    ]
    twice: JsonObject = {**crd, "spec": {**spec, "versions": [version, {**version, "name": "v2"}]}}
    assert any("must have exactly one version marked as storage version" in p for p in problems(schema, twice))
