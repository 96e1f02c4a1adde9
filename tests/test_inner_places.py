"""Names as places: whatever somebody calls a thing, its file lies in the folder that was meant."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.board.own_files import LIST, replace_own
from bench.board.scope_names import name_scopes
from bench.board.text import slug
from bench.errors import AssumptionWarning, BenchError
from bench.files import file_name
from bench.finetune.attention_maps import map_path
from bench.finetune.save import write_model
from bench.inner_places import is_portable, name_file, name_part, place_inside, refuse_links
from bench.models.explainee import Explainee
from bench.records.store import free_name

NASTY = (
    "../../up",
    "/etc/there",
    "C:\\there",
    "..",
    ".",
    "",
    "a\0b",
    "lpt3.x",
    "COM1",
    "ends.",
    ".starts",
    "é漢" * 90,
    "z" * 299,
    "tab\tand\nline",
    "a|b*c?d:e",
    "\udcff",
)


@pytest.mark.parametrize("name", NASTY, ids=range(len(NASTY)))
def test_a_nasty_name_is_one_portable_part(name: str) -> None:
    for made in (name_file(name), name_part(name), file_name(name, "-"), slug("val", name)):
        assert Path(made).name == made
        assert made not in ("", ".", "..")
        assert len(made.encode()) <= 160
        assert is_portable(made) or len(made.encode()) > 120
    item = map_path(Path("maps"), name)
    assert item.parent == Path("maps")
    assert len(item.name.encode()) < 220


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200), st.text(max_size=200))
def test_two_texts_have_two_names(one: str, other: str) -> None:
    assert is_portable(name_file(one))
    assert (name_part(one) == name_part(other)) == (one == other)
    assert (name_file(one) == name_file(other)) == (one == other)


def test_plain_names_stay_as_they_are() -> None:
    for name in ("resnet-scenes", "vit_tiny.augreg", "my model", "größe"):
        assert name_file(name) == name
    assert name_part("resnet-scenes") == file_name("resnet-scenes") == "resnet-scenes"
    assert not is_portable("../x")  # the check itself tells them apart


def test_scopes_of_one_name_get_files_of_their_own() -> None:
    scopes = [("v", "a/b"), ("v", "a_b"), ("v", "A_B"), ("v", "c"), ("v", "c--pairs")]
    names = name_scopes(scopes)
    assert len({name.casefold() for name in names.values()}) == len(scopes)
    assert names["v", "c"] == "v--c"
    assert not names["v", "c--pairs"].endswith("--pairs")


def test_numbers_go_on_over_names_that_differ_by_case(tmp_path: Path) -> None:
    (tmp_path / "Net-0.npz").touch()
    assert free_name(tmp_path, "net", ".npz").name == "net-1.npz"
    assert free_name(tmp_path, "other", ".npz").name == "other-0.npz"


def test_a_trained_model_is_written_into_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    model = Explainee(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)),
        size=2,
        name="own",
        card={"library": "timm", "arch": "x"},
    )
    names = ("../../out", "a/b", "a_b", "nul")
    cards = [write_model(folder, name, model, {}) for name in names]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.parent for path in files} == {folder}
    assert len(files) == 2 * len(names)
    for name, card in zip(names, cards, strict=True):
        entry = json.loads(card.read_text())[name]
        assert (card.parent / entry["file"]).is_file()


def test_only_listed_unchanged_files_are_removed(tmp_path: Path) -> None:
    folder, away = tmp_path / "tables", tmp_path / "away.csv"
    folder.mkdir()
    away.write_text("mine")
    old, changed, linked = (folder / f"{name}.csv" for name in ("old", "changed", "linked"))
    for path in (old, changed, linked):
        path.write_text("x")
    replace_own(folder, [old, changed, linked], (".csv",))
    changed.write_text("by hand")
    linked.unlink()
    linked.symlink_to(away)
    users = folder / "users.csv"
    users.write_text("own")
    new = folder / "new.csv"
    new.write_text("y")
    replace_own(folder, [new], (".csv",))
    assert not old.exists()
    assert changed.exists()
    assert linked.is_symlink()
    assert away.read_text() == "mine"
    assert users.exists()
    assert new.exists()


@pytest.mark.parametrize("entry", ["../away.csv", "/away.csv", "a/b.csv", "..\\away.csv"])
def test_a_list_of_a_stranger_names_nothing_outside(tmp_path: Path, entry: str) -> None:
    away = tmp_path / "away.csv"
    away.write_text("mine")
    folder = tmp_path / "tables"
    folder.mkdir()
    content = {"files": {entry: hashlib.sha256(b"mine").hexdigest()}}
    (folder / LIST).write_text(json.dumps(content))
    replace_own(folder, [], (".csv",))
    assert away.exists()


def test_a_folder_of_an_older_version_keeps_all_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "theirs.csv").write_text("x")
    with pytest.warns(AssumptionWarning, match=r"1 files .* such as theirs\.csv"):
        replace_own(tmp_path, [], (".csv",))
    assert (tmp_path / "theirs.csv").exists()


def test_a_linked_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    board = tmp_path / "board"
    board.mkdir()
    refuse_links(board, "tables")
    (board / "tables").symlink_to(tmp_path / "else")
    with pytest.raises(BenchError, match="is a link to"):
        refuse_links(board, "tables")
    assert place_inside(board, "x", ".json") == board / "x.json"
