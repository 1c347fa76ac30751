"""The image table: names to commands, and what is said where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from meltem.errors import UserError
from meltem.local.images import Image, NoImage, load_table
from meltem.local.node.node import CachedImages


def found(image: str, home: Path | None = None) -> Image:
    result = load_table(home).find(image)
    assert isinstance(result, Image), result
    return result


@pytest.mark.parametrize(
    "image",
    [
        "istio/proxyv2:1.27.0",
        "docker.io/istio/proxyv2",
        "gcr.io/istio-release/proxyv2:1.27.0-distroless",
        "meltem/proxyv2:dev",
    ],
)
def test_the_proxy_under_every_registry_name(image: str) -> None:
    assert found(image).command == (str(Path(sys.executable).parent / "pilot-agent"),)


@pytest.mark.parametrize(
    "image", ["busybox", "busybox:1.36", "docker.io/library/busybox@sha256:0123", "registry:5000/x/busybox:latest"]
)
def test_tags_digests_and_registries_do_not_matter(image: str) -> None:
    assert found(image).args == ("sh",)


def test_the_users_file_is_asked_first(tmp_path: Path) -> None:
    (tmp_path / "images.yaml").write_text(
        "images: [{match: ['busybox:2*'], command: ['{python}', mine.py], user: 1000}]"
    )
    mine = found("busybox:2.1", tmp_path)
    assert mine.command == (sys.executable, "mine.py")
    assert mine.user == "1000"
    assert found("busybox:1.36", tmp_path).args == ("sh",), "a pattern with a tag fits that tag only"


def test_what_is_added_counts_at_once_and_a_broken_file_leaves_what_was(tmp_path: Path) -> None:
    table = CachedImages(tmp_path)
    assert isinstance(table().find("thing"), NoImage)
    own = tmp_path / "images.yaml"
    own.write_text("images: [{match: [thing], command: [x]}]")
    added = table().find("thing")
    assert isinstance(added, Image) and added.command == ("x",)
    own.write_text("images: nothing")
    assert table().find("thing") == added
    own.unlink()
    assert isinstance(table().find("thing"), NoImage)


def test_an_image_may_bring_files_along(tmp_path: Path) -> None:
    (tmp_path / "images.yaml").write_text("images: [{match: [thing], command: [x], files: {/usr/bin/x: '{bin}/y'}}]")
    answer = load_table(tmp_path).find("thing")
    assert isinstance(answer, Image)
    assert answer.files == {"/usr/bin/x": str(Path(sys.executable).parent / "y")}


def test_an_unknown_image_names_the_file_to_add_it_to(tmp_path: Path) -> None:
    answer = load_table(tmp_path).find("example.com/thing:1")
    assert isinstance(answer, NoImage)
    assert str(tmp_path / "images.yaml") in answer.reason


def test_a_program_that_is_not_installed_is_named(tmp_path: Path) -> None:
    (tmp_path / "images.yaml").write_text("images: [{match: [thing], command: [x], requires: [no-such-program]}]")
    answer = load_table(tmp_path).find("thing")
    assert isinstance(answer, NoImage)
    assert "no-such-program" in answer.reason


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("images: [{match: [a], comand: [b]}]", "unknown field 'comand'"),
        ("images: [{command: [b]}]", "no `match`"),
        ("images: [{match: [a], command: [{}]}]", "`command` has an item that is no string"),
        ("images: [{match: [a], files: [b]}]", "`files` is no map"),
        ("{}", "no list `images`"),
    ],
)
def test_a_broken_entry_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "images.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        load_table(tmp_path)
