"""Volumes' contents and how they are written: whole sets of files, replaced at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meltem.clock import ManualClock
from meltem.local.node import fields
from meltem.local.node.volumes.manager import PodVolumes
from meltem.local.node.volumes.payload import File, MountFailure, Payload, Request, payload, write_payload
from meltem.local.node.volumes.sources import Token
from meltem.objects import JsonObject


class Sources:
    def __init__(self, **objects: dict[str, bytes]) -> None:
        self.objects = objects

    async def config_map(self, namespace: str, name: str) -> dict[str, bytes] | None:
        return self.objects.get(name)

    secret = config_map

    async def claim(self, namespace: str, name: str) -> JsonObject | None:
        return None

    async def volume(self, name: str) -> JsonObject | None:
        return None

    async def token(self, pod: JsonObject, audience: str, seconds: int) -> Token:
        return Token(f"for-{audience}", 1_700_000_000.0 + seconds)

    def on_change(self, listener: object) -> None:
        return None


def request(sources: Sources, **spec: object) -> Request:
    pod: JsonObject = {"metadata": {"name": "p", "namespace": "n", "labels": {"a": 'q"'}}, "spec": {**spec}}  # type: ignore[dict-item]
    addresses = fields.Addresses(("10.0.0.2",), ("10.0.0.1",))
    return Request(pod, addresses, fields.Capacity(2, 1 << 30), sources, ManualClock())


async def test_a_projected_volume_joins_its_sources_and_wants_its_token_renewed() -> None:
    volume: JsonObject = {
        "projected": {
            "sources": [
                {"serviceAccountToken": {"path": "token", "audience": "istio-ca", "expirationSeconds": 1000}},
                {"configMap": {"name": "cm", "items": [{"key": "k", "path": "sub/k", "mode": 0o600}]}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                {"secret": {"name": "not-there", "optional": True}},
            ]
        }
    }
    found = await payload(volume, request(Sources(cm={"k": b"v", "other": b"x"})))
    assert {p: f.content for p, f in found.files.items()} == {
        "token": b"for-istio-ca",
        "sub/k": b"v",
        "labels": b'a="q\\""',
    }
    assert found.files["sub/k"].mode == 0o600
    assert found.refresh_at == 1_700_000_000.0 + 800, "at 80 % of its life"


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        ({"configMap": {"name": "no"}}, 'configmap "no" not found'),
        ({"secret": {"secretName": "no"}}, 'secret "no" not found'),
        ({"configMap": {"name": "cm", "items": [{"key": "z", "path": "z"}]}}, "non-existent configmap key: z"),
        ({"configMap": {"name": "cm", "items": [{"key": "k", "path": "../z"}]}}, "leaves the volume"),
        ({"projected": {"sources": [{"clusterTrustBundle": {}}]}}, "clusterTrustBundle is not supported"),
    ],
)
async def test_what_cannot_be_had_is_named(volume: JsonObject, words: str) -> None:
    with pytest.raises(MountFailure, match=words):
        await payload(volume, request(Sources(cm={"k": b"v"})))


def test_files_are_replaced_all_at_once(tmp_path: Path) -> None:
    directory = tmp_path / "v"
    assert write_payload(directory, Payload({"a": File(b"1", 0o644), "d/b": File(b"2", 0o600)}), group=None)
    first = (directory / "..data").readlink()
    assert (directory / "a").read_bytes() == b"1"
    assert (directory / "d" / "b").stat().st_mode & 0o777 == 0o600
    assert not write_payload(directory, Payload({"a": File(b"1", 0o644), "d/b": File(b"2", 0o600)}), group=None)
    assert (directory / "..data").readlink() == first, "nothing is written where nothing changed"
    assert write_payload(directory, Payload({"a": File(b"3", 0o644)}), group=None)
    assert (directory / "a").read_bytes() == b"3"
    assert sorted(p.name for p in directory.iterdir() if not p.name.startswith("..")) == ["a"]
    assert not (directory / first).exists()


async def test_mounts_with_sub_paths_and_read_only(tmp_path: Path) -> None:
    volumes = PodVolumes(tmp_path / "pod", tmp_path / "claims")
    wanted = request(
        Sources(cm={"k": b"v"}),
        volumes=[{"name": "e", "emptyDir": {}}, {"name": "c", "configMap": {"name": "cm"}}],
    )
    await volumes.mount_all(wanted)
    container: JsonObject = {
        "volumeMounts": [
            {"name": "c", "mountPath": "/a/b/k", "subPath": "k"},
            {"name": "e", "mountPath": "/a", "subPathExpr": "logs/$(NAME)"},
        ]
    }
    outer, inner = volumes.binds(container, {"NAME": "me"})
    assert (outer.target, outer.readonly) == ("/a", False), "an outer mount comes before what lies in it"
    assert outer.source.endswith("volumes/e/logs/me")
    assert inner.readonly
    assert Path(inner.source).read_bytes() == b"v"
    assert os.stat(tmp_path / "pod" / "volumes" / "e").st_mode & 0o777 == 0o777  # noqa: PTH116


async def test_a_volume_kind_that_is_not_supported_is_refused_by_name(tmp_path: Path) -> None:
    volumes = PodVolumes(tmp_path / "pod", tmp_path / "claims")
    with pytest.raises(MountFailure, match='volume "x" : volumes of kind csi are not supported'):
        await volumes.mount_all(request(Sources(), volumes=[{"name": "x", "csi": {"driver": "d"}}]))
