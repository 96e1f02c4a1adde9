"""The editor without the web: what is in the queue, what a map does, and that no saved work can be
lost.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

import bench
from bench.editor import ConflictError, Session, read_classes
from bench.editor import kept_placements as module
from bench.editor.drawing_steps import MOST, StaleStepsError, Steps
from bench.editor.saved_maps import SavedMaps
from bench.errors import BenchError
from bench.finetune.attention_maps import (
    check_maps,
    load_map,
    load_maps,
    make_edited_map,
    map_path,
    write_map,
)
from bench.finetune.placement import find_placements
from bench.finetune.simulate import simulate_maps
from bench.models.abn import AttentionBranchNetwork, to_grid


@pytest.fixture
def session(abn, scenes, tmp_path):
    with Session(abn, scenes, tmp_path / "maps") as made:
        yield made


def blob(session: Session, k: int, row: int = 20) -> np.ndarray:
    grey = session.view(k)["own"].copy()
    grey[row : row + 24, 30:60] = 255
    return grey


# --- the queue


def test_the_queue_holds_what_is_right_in_class_and_wrong_in_place(abn, scenes, tmp_path):
    rows = find_placements(abn, scenes)
    assert any(not p.right for p in rows)
    with Session(abn, scenes, tmp_path) as session:
        wrong = [p for p in rows if p.right and p.energy < 0.5]
        assert session.queue == sorted(wrong, key=lambda p: p.energy or 0.0)
    with Session(abn, scenes, tmp_path, everything=True) as session:
        assert {p.item for p in session.queue} == set(scenes.ids)
        assert len(session) == len(scenes)


def test_the_queue_holds_at_most_what_is_asked_the_largest_miss_first(abn, scenes, tmp_path):
    with Session(abn, scenes, tmp_path) as session:
        whole = session.queue
    with Session(abn, scenes, tmp_path, limit=3) as session:
        assert session.queue == whole[:3]
        assert session.queue[0].energy < session.queue[1].energy < session.queue[2].energy
    with Session(abn, scenes, tmp_path, limit=999) as session:
        assert session.queue == whole


def test_the_queue_of_a_class_looks_at_that_class_alone(abn, scenes, tmp_path):
    label = find_placements(abn, scenes)[0].label
    seen = []
    with Session(
        abn, scenes, tmp_path, True, lambda *done: seen.append(done), classes=[label]
    ) as session:
        assert {p.label for p in session.queue} == {label}
        assert len(session) == scenes.labels.tolist().count(label) < len(scenes)
    assert seen[-1] == (len(session), len(session))
    rest = []
    with Session(abn, scenes, tmp_path, True, lambda *done: rest.append(done)) as session:
        assert len(session) == len(scenes)  # and only the others are looked at
        assert rest[-1] == (len(scenes) - seen[-1][1],) * 2
        expected = sorted(find_placements(abn, scenes), key=lambda p: p.item)
        assert [p.item for p in sorted(session.queue, key=lambda p: p.item)] == [
            p.item for p in expected
        ]
        assert all(scenes.ids[p.index] == p.item for p in session.queue)


def test_classes_are_read_by_name_and_number(scenes):
    name = scenes.class_names[int(scenes.labels[0])]
    assert read_classes(name, scenes) == (int(scenes.labels[0]),)
    assert read_classes(f"{scenes.labels[0]}, {name}", scenes) == (int(scenes.labels[0]),)
    for text, words in {
        "checked disk": "no class 'checked disk'",
        "99": "no class '99'",
        " ,": "names no class",
    }.items():
        with pytest.raises(BenchError, match=words):
            read_classes(text, scenes)
    missing = next(k for k in range(10) if k not in scenes.limit(3).labels)
    with pytest.raises(BenchError, match="no image of the class"):
        read_classes(str(missing), scenes.limit(3))


def test_an_empty_queue_of_a_class_says_why(abn, scenes, tmp_path):
    rows = find_placements(abn, scenes)
    label = next(p.label for p in rows if not p.right)
    wrong = [p.index for p in rows if p.label == label and not p.right]
    part = dataclasses.replace(scenes, positions=tuple(scenes.positions[k] for k in wrong))
    with pytest.raises(BenchError, match="images of the chosen classes of"):
        Session(abn, part, tmp_path, classes=[label])


def test_without_truth_the_queue_holds_what_is_right_in_class(abn, scenes, tmp_path, without_truth):
    bare = dataclasses.replace(scenes, source=without_truth(scenes.source))
    with Session(abn, bare, tmp_path) as session:
        assert [p.item for p in session.queue] == [
            p.item for p in find_placements(abn, scenes) if p.right
        ]
        view = session.view(0)
        assert view["boxes"] is None
        assert view["mask"] is None
        assert view["outcome"]["before"]["energy"] is None
        assert session.save(0, blob(session, 0), 0).facts["after"]["energy"] is None


def test_an_empty_queue_says_why(abn, scenes, tmp_path):
    wrong = next(p.index for p in find_placements(abn, scenes) if not p.right)
    one = dataclasses.replace(scenes, positions=(scenes.positions[wrong],))
    with pytest.raises(
        BenchError, match=r"queue is empty: of 1 images .* none is right in class; use --all"
    ):
        Session(abn, one, tmp_path)
    right = next(p for p in find_placements(abn, scenes) if p.right)
    # An attention that lies on the object: all of the frame is the object.
    whole = dataclasses.replace(
        scenes, positions=(scenes.positions[right.index],), source=Whole(scenes.source)
    )
    with pytest.raises(BenchError, match=r"of the 1 right in class none has less than half"):
        Session(abn, whole, tmp_path)


class Whole:
    """The scenes as a source whose masks are the whole frame."""

    def __init__(self, source):
        self._source = source

    def __getattr__(self, name):
        return getattr(self._source, name)

    def read(self, position):
        sample = self._source.read(position)
        return dataclasses.replace(sample, mask=np.ones_like(sample.mask))


# --- the network under a map


def test_an_image_comes_with_the_networks_map_and_truth(abn, scenes, session):
    view = session.view(0)
    index = session.queue[0].index
    batch = scenes.batch([index], abn.geometry)
    with torch.no_grad():
        own = abn.net.attention_map(abn.normalise(batch.pixels))
    values = torch.from_numpy(view["own"].astype(np.float32) / 255)[None]
    assert (to_grid(values, 12, 12) - own).abs().max() < 0.03
    assert np.array_equal(view["map"], view["own"])
    assert np.array_equal(view["mask"].astype(bool), batch.truth.masks[0].numpy())
    assert view["boxes"] == batch.truth.boxes[0].tolist()
    assert np.array_equal(session.frame(0), scenes[index].image)
    assert view["class_name"] == scenes.class_names[scenes.labels[index]]
    assert (view["revision"], view["source"], view["when"]) == (0, None, None)


def test_inference_puts_the_edited_map_into_the_network(abn, scenes, session):
    grey = blob(session, 0)
    outcome = session.infer(0, grey)
    images = abn.normalise(scenes.batch([session.queue[0].index], abn.geometry).pixels)
    injected = to_grid(torch.from_numpy(grey / np.float32(255))[None], 12, 12)
    with torch.no_grad():
        before, after = (abn.net(images, attention=a).softmax(1)[0] for a in (None, injected))
    for row in outcome["classes"]:
        assert row["before"] == pytest.approx(float(before[row["label"]]), abs=1e-6)
        assert row["after"] == pytest.approx(float(after[row["label"]]), abs=1e-6)
    shown = [row["label"] for row in outcome["classes"]]
    assert shown[:5] == before.topk(5).indices.tolist()
    assert set(shown) == set(before.topk(5).indices.tolist()) | set(after.topk(5).indices.tolist())
    assert np.abs(outcome["attention"] / 255 - injected[0, 0].numpy()).max() < 0.003
    assert outcome["before"]["energy"] == pytest.approx(session.queue[0].energy, abs=1e-6)


def test_an_unedited_map_leaves_the_network_as_it_is(session):
    for k in range(6):
        view = session.view(k)
        outcome = session.infer(k, view["own"])
        for row in outcome["classes"]:
            assert row["after"] == pytest.approx(row["before"], abs=0.01)
        assert outcome["after"]["energy"] == pytest.approx(outcome["before"]["energy"], abs=0.01)


def test_attention_on_the_object_raises_the_energy(session):
    mask = session.view(0)["mask"]
    assert session.infer(0, mask * np.uint8(255))["after"]["energy"] > 0.6
    assert session.infer(0, np.zeros_like(mask))["after"]["energy"] is None


def test_the_network_stays_as_it_was(abn, scenes, tmp_path):
    state = copy.deepcopy(abn.net.state_dict())
    with Session(abn, scenes, tmp_path) as session:
        session.save(0, blob(session, 0), 0)
    assert all(torch.equal(v, state[k]) for k, v in abn.net.state_dict().items())
    assert all(p.grad is None for p in abn.net.parameters())


# --- saving


def test_a_saved_map_is_one_file_that_training_reads(abn, scenes, session):
    grey = blob(session, 2)
    saved = session.save(2, grey, 0)
    item = session.queue[2].item
    (loaded,) = load_maps(session.folder)
    check_maps([loaded], abn, scenes)
    assert np.array_equal(loaded.grey, grey)
    assert loaded.facts == saved.facts
    facts = loaded.facts
    assert (facts["item"], facts["revision"], facts["source"]) == (item, 1, "editor")
    assert (facts["model"], facts["subset"], facts["label"]) == (
        "abn",
        "scenes-val",
        session.queue[2].label,
    )
    assert facts["before"]["energy"] == pytest.approx(session.queue[2].energy, abs=1e-5)
    assert facts["after"]["energy"] == pytest.approx(
        session.infer(2, grey)["after"]["energy"], abs=1e-5
    )
    assert facts["started_from"] == "model"
    assert facts["when"].endswith("+00:00")
    assert session.is_drawn(2)
    assert session.state(2)["revision"] == 1


def test_every_older_version_is_kept(session):
    versions = [blob(session, 0, row) for row in (0, 20, 40)]
    for base, grey in enumerate(versions):
        assert session.save(0, grey, base).facts["revision"] == base + 1
    kept = sorted((session.folder / "history").glob("*.png"))
    assert [path.name for path in kept] == [
        "scenes-val-000000.r0001.png",
        "scenes-val-000000.r0002.png",
    ]
    for path, grey in zip(kept, versions, strict=False):
        assert np.array_equal(load_map(path).grey, grey)
    assert np.array_equal(load_maps(session.folder)[0].grey, versions[2])


def test_saving_the_same_twice_is_saving_once(session):
    first = session.save(0, blob(session, 0), 0)
    again = session.save(0, blob(session, 0), 1)
    assert again.facts == first.facts
    assert not list((session.folder / "history").glob("*.png"))


def test_a_save_over_a_newer_version_is_refused_and_kept(session):
    mine, theirs = blob(session, 0, 0), blob(session, 0, 40)
    session.save(0, theirs, 0)
    for count in (1, 2):  # asked twice: both are kept
        with pytest.raises(ConflictError) as caught:
            session.save(0, mine, 0)
        assert np.array_equal(caught.value.current.grey, theirs)
        assert np.array_equal(load_map(caught.value.kept).grey, mine)
        assert load_map(caught.value.kept).facts["refused"] is True
        assert len(list((session.folder / "history").glob("*refused*"))) == count
    assert np.array_equal(load_maps(session.folder)[0].grey, theirs)
    assert session.save(0, mine, 1).facts["revision"] == 2  # keep mine
    assert np.array_equal(
        load_map(session.folder / "history" / "scenes-val-000000.r0001.png").grey, theirs
    )


def test_of_many_saves_at_once_one_wins_and_all_are_kept(session, monkeypatch):
    maps = [blob(session, 0, row) for row in range(0, 60, 6)]
    refused = []
    look = SavedMaps.read

    def look_slowly(self, item):
        found = look(self, item)
        time.sleep(0.02)  # the others come in between, if they can
        return found

    monkeypatch.setattr(SavedMaps, "read", look_slowly)

    def save(grey):
        try:
            session.save(0, grey, 0)
        except ConflictError as conflict:
            refused.append(conflict.kept)

    threads = [threading.Thread(target=save, args=(grey,)) for grey in maps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == len(set(refused)) == len(maps) - 1
    found = [
        load_map(path).grey.tobytes()
        for path in [*refused, map_path(session.folder, session.queue[0].item)]
    ]
    assert sorted(found) == sorted(grey.tobytes() for grey in maps)


def test_a_save_that_fails_loses_nothing(session, monkeypatch):
    session.save(0, blob(session, 0, 0), 0)

    def full(self, target, **_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        with pytest.raises(BenchError, match="No space left"):
            session.save(0, blob(session, 0, 40), 1)
    assert np.array_equal(session.view(0)["map"], blob(session, 0, 0))
    assert session.save(0, blob(session, 0, 40), 1).facts["revision"] == 2


def test_a_removed_map_is_saved_anew(session):
    session.save(0, blob(session, 0, 0), 0)
    map_path(session.folder, session.queue[0].item).unlink()
    assert session.view(0)["revision"] == 0
    assert not session.is_drawn(0)
    assert session.save(0, blob(session, 0, 20), 1).facts["revision"] == 2


# --- a restart


def test_a_restart_resumes_at_the_first_unsaved_image(abn, scenes, tmp_path, monkeypatch):
    with Session(abn, scenes, tmp_path) as session:
        assert session.first == 0
        for k in (0, 1, 3):
            session.save(k, blob(session, k, k), 0)
        assert session.first == 2
        expected = blob(session, 3, 3)

    def again(*_):
        raise AssertionError("the images were looked at again")

    monkeypatch.setattr(module, "find_placements", again)
    with Session(abn, scenes, tmp_path) as session:
        assert session.first == 2
        assert [session.is_drawn(k) for k in range(5)] == [True, True, False, True, False]
        view = session.view(3)
        assert np.array_equal(view["map"], expected)
        assert view["revision"] == 1
        for k in range(len(session)):
            if not session.is_drawn(k):
                session.save(k, blob(session, k), 0)
        assert session.first == 0


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"stamp": {}}', '{"stamp": {}, "rows": []}', "[" * 100_000]
)
def test_what_is_kept_to_save_time_may_be_broken(abn, scenes, tmp_path, content):
    with Session(abn, scenes.limit(4), tmp_path) as session:
        queue = session.queue
    (tmp_path / "placements.json").write_text(content)
    with Session(abn, scenes.limit(4), tmp_path) as session:
        assert session.queue == queue


@pytest.mark.parametrize(
    "facts",
    [{"item": "x"}, {"index": 9}, {"label": 999}, {"energy": float("nan")}, {"probability": "9"}],
)
def test_placements_that_cannot_be_are_looked_at_anew(abn, scenes, tmp_path, facts):
    with Session(abn, scenes.limit(4), tmp_path) as session:
        queue = session.queue
    kept = json.loads((tmp_path / "placements.json").read_text())
    kept["rows"][0] |= facts
    (tmp_path / "placements.json").write_text(json.dumps(kept))
    with Session(abn, scenes.limit(4), tmp_path) as session:
        # Alone in its batch, an image may have another last digit.
        for one, before in zip(session.queue, queue, strict=True):
            assert (one.index, one.item, one.label) == (before.index, before.item, before.label)
            assert one.energy == pytest.approx(before.energy, abs=1e-6)


def test_what_is_kept_is_of_these_images_and_this_model(abn, scenes, tmp_path):
    with Session(abn, scenes.part(0, 8), tmp_path) as session:
        first = session.queue
    with Session(abn, scenes.part(8, 16), tmp_path) as session:
        assert {p.item for p in session.queue}.isdisjoint(p.item for p in first)
    stamp = json.loads((tmp_path / "placements.json").read_text())["stamp"]
    assert stamp["weights_id"] == abn.weights_id


def test_one_editor_per_folder(abn, scenes, tmp_path):
    with (
        Session(abn, scenes.limit(4), tmp_path),
        pytest.raises(BenchError, match="open in another editor"),
    ):
        Session(abn, scenes.limit(4), tmp_path)
    with Session(abn, scenes.limit(4), tmp_path):
        pass


def test_simulated_maps_can_be_gone_on_with(abn, scenes, tmp_path):
    simulate_maps(abn, scenes, tmp_path, share=1)
    with Session(abn, scenes, tmp_path) as session:
        assert session.first == 0
        view = session.view(0)
        assert view["source"] == "simulated:masks"
        assert not session.is_drawn(0)
        saved = session.save(0, view["map"], 1)  # a person says that it is right
        assert (saved.facts["source"], saved.facts["started_from"]) == ("editor", "simulated:masks")
        assert saved.facts["revision"] == 2
        assert session.is_drawn(0)
        assert load_map(next((tmp_path / "history").glob("*.r0001.png"))).simulated


def test_a_network_without_finite_numbers_is_a_sentence(session, monkeypatch):
    branches = type(session.model.net).branches

    def spoil(self, images):
        out = branches(self, images)
        return out._replace(logits=out.logits * torch.nan)

    monkeypatch.setattr(type(session.model.net), "branches", spoil)
    with pytest.raises(BenchError, match="not finite"):
        session.view(0)


# --- damaged files


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def blacken(path):
    content = bytearray(path.read_bytes())
    begin = content.index(b"IDAT") + 12
    content[begin : begin + 40] = bytes(40)
    path.write_bytes(content)


def deepen(path):
    text = PngImagePlugin.PngInfo()
    text.add_text("cambench", "[" * 100_000)
    Image.new("L", (96, 96)).save(path, pnginfo=text)


def swap(path):
    other = load_map(path)
    write_map(path, dataclasses.replace(other, facts=other.facts | {"item": "scenes-val-000999"}))


def widen(path):
    other = load_map(path)
    save = make_edited_map(np.zeros((97, 97), np.uint8), other.facts | {"size": 97})
    write_map(path, save)


DAMAGES = [
    cut,
    blacken,
    deepen,
    swap,
    widen,
    lambda path: path.write_bytes(b""),
    lambda path: (path.unlink(), path.mkdir()),
    lambda path: (path.unlink(), path.symlink_to("nowhere.png")),
    lambda path: Image.new("RGB", (96, 96)).save(path),
    lambda path: Image.new("RGB", (96, 96)).save(path, format="JPEG"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_map_is_kept_aside_and_never_overwritten(session, damage):
    session.save(0, blob(session, 0, 0), 0)
    path = map_path(session.folder, session.queue[0].item)
    damage(path)
    before = path.read_bytes() if path.is_file() else None
    for count in (1, 2):
        view = session.view(0)
        assert str(path) in view["damaged"] or session.queue[0].item in view["damaged"]
        assert np.array_equal(view["map"], view["own"])
        assert not session.is_drawn(0)
        saved = session.save(0, blob(session, 0, 20), view["revision"])
        aside = session.folder / saved.facts["set_aside"]
        end = ".damaged" if count == 1 else "-2.damaged"
        assert aside.name == f"{path.stem}{end}"
        assert np.array_equal(load_map(path).grey, blob(session, 0, 20))
        assert session.state(0)["damaged"] is None
        if before is not None:
            assert aside.read_bytes() == before
            path.write_bytes(before)
            continue
        assert aside.is_dir() or aside.is_symlink()
        break


def test_a_damaged_map_does_not_keep_the_editor_from_opening(abn, scenes, tmp_path):
    with Session(abn, scenes, tmp_path) as session:
        for k in (0, 1):
            session.save(k, blob(session, k), 0)
        path = map_path(tmp_path, session.queue[0].item)
    blacken(path)
    with Session(abn, scenes, tmp_path) as session:
        assert list(session.maps.damaged) == [session.queue[0].item]
        assert session.first == 0
        assert session.is_drawn(1)
        with pytest.raises(BenchError, match=r"damaged|cannot be read"):
            load_maps(tmp_path)  # and training says so, too
        session.save(0, blob(session, 0), 0)
    assert len(load_maps(tmp_path)) == 2


def test_a_damaged_file_that_cannot_be_moved_is_not_saved_over(session, monkeypatch):
    session.save(0, blob(session, 0, 0), 0)
    path = map_path(session.folder, session.queue[0].item)
    cut(path)
    before = path.read_bytes()

    def deny(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "rename", deny)
        with pytest.raises(BenchError, match=r"cannot be moved .* nothing was saved"):
            session.save(0, blob(session, 0, 20), 1)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "facts",
    [{"revision": -1}, {"revision": 2**60}, {"label": -5}, {"size": -96}, {"format": 2}],
)
def test_numbers_of_a_map_are_in_range(tmp_path, facts):
    right = {
        **dict.fromkeys(("item", "image_id", "subset", "manifest_id", "model", "weights_id"), "a"),
        "label": 1,
        "when": "now",
        "source": "editor",
        "revision": 1,
    }
    edited = make_edited_map(np.zeros((96, 96), np.uint8), right)
    write_map(tmp_path / "a.png", edited)
    load_map(tmp_path / "a.png")
    text = PngImagePlugin.PngInfo()
    text.add_text("cambench", json.dumps(edited.facts | facts))
    Image.new("L", (96, 96)).save(tmp_path / "b.png", pnginfo=text)
    with pytest.raises(BenchError, match=next(iter(facts))):
        load_map(tmp_path / "b.png")


# --- bad input


def test_bad_input_is_one_sentence(abn, scenes, tmp_path):
    with pytest.raises(BenchError, match="no attention branch"):
        Session(bench.load_model("resnet-scenes"), scenes, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "maps"):
        with pytest.raises(BenchError, match=r"cannot be saved in .*choose another --out"):
            Session(abn, scenes, folder)
    (tmp_path / "b").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "b" / "holiday.png")
    with pytest.raises(BenchError, match=r"holiday.png is not an attention map"):
        Session(abn, scenes, tmp_path / "b")


def test_maps_of_another_model_are_not_gone_on_with(abn, scenes, session):
    session.save(0, blob(session, 0), 0)
    session.close()
    other = AttentionBranchNetwork(bench.load_model("resnet-scenes").net, map_kernel=1).eval()
    model = bench.Explainee(other, abn.mean, abn.std, 96, name="other", geometry=abn.geometry)
    with pytest.raises(BenchError, match=r"of the model abn .* not of other"):
        Session(model, scenes, session.folder)
    with Session(abn, scenes, session.folder) as again:  # the folder is free after the refusal
        assert again.is_drawn(0)


# --- the steps of a drawing


def add(session: Session, k: int, grey: np.ndarray, keep: int, seen: int, **more) -> Steps:
    item = session.queue[k].item
    return session.steps.add(item, grey, keep=keep, base=more.pop("base", 0), seen=seen, **more)


def draw_steps(session: Session, k: int = 0) -> list[np.ndarray]:
    """Keep the network's own map and two strokes, and return the three maps."""
    maps = [session.view(k)["own"], blob(session, k, 10), blob(session, k, 50)]
    for n, grey in enumerate(maps):
        add(session, k, grey, n, n, saved=n == 0)
    return maps


def test_steps_outlive_the_session(abn, scenes, tmp_path):
    with Session(abn, scenes, tmp_path) as session:
        maps = draw_steps(session)
        session.steps.move(session.queue[0].item, 1, 3)
    with Session(abn, scenes, tmp_path) as session:
        steps = session.read_steps(0)
        assert np.array_equal(steps.maps, np.stack(maps))
        assert (steps.place, steps.saved, steps.base, steps.version) == (1, 0, 0, 4)
        assert session.state(0)["unsaved"]
        assert not session.state(1)["unsaved"]
        assert session.read_steps(1) is None
        assert session.view(0)["revision"] == 0  # and nothing was saved for training
        again = add(session, 0, maps[2], 2, 4)  # what could be redone goes
        assert (len(again.maps), again.place) == (3, 2)
        back = session.steps.move(session.queue[0].item, 0, 5)
        assert back.place == back.saved
        assert not session.state(0)["unsaved"]


def test_a_saved_drawing_has_nothing_unsaved(session):
    maps = draw_steps(session)
    session.save(0, maps[2], 0)
    assert not session.state(0)["unsaved"]
    assert session.read_steps(0).base == 1
    session.save(0, maps[1], 1)  # another page saved another map: the drawing is unsaved again
    steps = session.read_steps(0)
    assert (steps.saved, steps.base) == (-1, 1)
    assert session.state(0)["unsaved"]


def test_steps_of_an_older_saved_map_go_where_nothing_is_unsaved(session):
    maps = draw_steps(session)
    session.save(0, maps[2], 0)
    item = session.queue[0].item
    (session.folder / "steps").rename(session.folder / "away")
    session.save(0, maps[1], 1)
    (session.folder / "away").rename(session.folder / "steps")
    assert session.view(0)["steps"] is None
    assert session.steps.read(item) is None


def test_two_pages_do_not_mix_their_steps(session):
    maps = draw_steps(session)
    item = session.queue[0].item
    for call in (
        lambda: add(session, 0, maps[1], 0, 0),
        lambda: add(session, 0, maps[1], 3, 2),
        lambda: session.steps.move(item, 0, 2),
        lambda: session.steps.move(item, 3, 3),
        lambda: session.steps.move(session.queue[1].item, 0, 0),
    ):
        with pytest.raises(StaleStepsError):
            call()
    assert np.array_equal(session.read_steps(0).maps, np.stack(maps))


def test_sixty_steps_are_kept(session):
    own = session.view(0)["own"]
    for n in range(MOST + 5):
        grey = own.copy()
        grey[0, 0] = n
        steps = add(session, 0, grey, len(session.read_steps(0).maps) if n else 0, n, saved=n == 0)
    assert (len(steps.maps), steps.place, steps.saved) == (MOST, MOST - 1, -1)
    assert steps.maps[:, 0, 0].tolist() == list(range(5, MOST + 5))


@pytest.mark.parametrize("how", ["cut", "flip", "text", "other item", "pickle", "wide"])
def test_steps_that_cannot_be_read_are_set_aside(session, how):
    maps = draw_steps(session)
    (file,) = (session.folder / "steps").glob("*.npz")
    content = file.read_bytes()
    if how == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif how == "flip":
        middle = len(content) // 3
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif how == "text":
        file.write_text("nothing")
    elif how == "other item":
        draw_steps(session, 1)
        other = map_path(session.folder / "steps", session.queue[1].item).with_suffix(".npz")
        file.write_bytes(other.read_bytes())
    else:
        with np.load(file) as packed:
            facts = packed["facts"]
        wrong = np.array([{}]) if how == "pickle" else np.zeros((999, 96, 96), np.uint8)
        np.savez(file, maps=wrong, facts=facts)
    broken = file.read_bytes()
    assert session.view(0)["steps"] is None
    assert file.with_name(f"{file.name}.damaged").read_bytes() == broken
    assert not session.state(0)["unsaved"]
    add(session, 0, maps[1], 0, 0)
    assert len(session.read_steps(0).maps) == 1
