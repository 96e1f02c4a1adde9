"""The editor over HTTP: what it answers, whom it refuses, and the command that starts and ends
it.
"""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from bench import cli
from bench.editor import Session, StartReport, listen, make_token
from bench.editor.server import FILES, PAGE, make_app
from bench.errors import BenchError
from bench.finetune.attention_maps import load_maps
from bench.finetune.save import write_model
from tests.support.interrupts import interruptible

ROOT = Path(__file__).parents[2]
HERE = "http://127.0.0.1:8765"
OWN = {"origin": HERE}
TOKEN = make_token()


@pytest.fixture
def session(abn, scenes, tmp_path):
    with Session(abn, scenes, tmp_path / "maps") as made:
        yield made


@pytest.fixture
def client(session):
    with TestClient(make_app(session, TOKEN), base_url=HERE, headers=OWN) as made:
        made.get(f"/?token={TOKEN}")  # and has the cookie from now on
        yield made


def grey(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.uint8)


# --- what it answers


def test_the_page_and_all_its_parts_are_there(client):
    assert {name for name, _ in FILES.values()} == {path.name for path in PAGE.iterdir()}
    for path, (name, media_type) in FILES.items():
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(media_type)
        assert answer.content == (PAGE / name).read_bytes()
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert answer.headers["cache-control"] == "no-store"
    page = client.get("/").text
    for name in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert name.startswith("data:") or f"/{name}" in FILES
    assert client.get("/../session.py").status_code == 404


def test_the_page_works_offline():
    for path in PAGE.iterdir():
        assert not re.search(r"(https?:)?//[a-z]+\.", path.read_text()), path.name


def test_the_session(client, session):
    said = client.get("/api/session").json()
    assert (said["model"], said["subset"], said["size"], said["first"]) == (
        "abn",
        "scenes-val",
        96,
        0,
    )
    assert said["looked_at"] == 24
    assert said["right"] == sum(p.right for p in session.seen)
    assert [one["item"] for one in said["images"]] == [p.item for p in session.queue]
    for colours in said["colour_maps"].values():
        assert grey(colours).shape == (768,)


def test_an_image(client, session):
    said = client.get("/api/images/1").json()
    assert np.array_equal(grey(said["own"]).reshape(96, 96), session.view(1)["own"])
    assert grey(said["mask"]).sum() == scene_mask(session, 1).sum()
    attention = said["outcome"]["attention"]
    assert grey(attention["values"]).size == attention["height"] * attention["width"] == 144
    picture = Image.open(io.BytesIO(client.get("/api/images/1/frame.png").content))
    assert np.array_equal(np.asarray(picture), session.frame(1))


def scene_mask(session: Session, k: int) -> np.ndarray:
    mask = session.subset[session.queue[k].index].mask
    assert mask is not None
    return mask


def test_inference_changes_the_probabilities(client, session):
    same = client.post("/api/images/0/infer", content=session.view(0)["own"].tobytes()).json()
    none = client.post("/api/images/0/infer", content=bytes(96 * 96)).json()
    assert none["before"] == same["before"]
    assert none["after"]["energy"] is None
    assert [row["after"] for row in none["classes"]] != [row["after"] for row in same["classes"]]


def test_saving_and_a_conflict(client, session):
    one, two = bytes([10]) * 96 * 96, bytes([20]) * 96 * 96
    saved = client.post("/api/images/0/map?base=0", content=one).json()
    assert saved["revision"] == 1
    assert saved["source"] == "editor"
    assert np.all(load_maps(session.folder)[0].grey == 10)
    refused = client.post("/api/images/0/map?base=0", content=two)
    assert refused.status_code == 409
    assert grey(refused.json()["current"]["map"]).tobytes() == one
    assert refused.json()["current"]["revision"] == 1
    assert (session.folder / refused.json()["kept"]).is_file()
    assert np.all(load_maps(session.folder)[0].grey == 10)
    assert client.post("/api/images/0/map?base=1", content=two).json()["revision"] == 2
    assert client.get("/api/images/0").json()["revision"] == 2
    assert client.get("/api/session").json()["first"] == 1


def test_a_damaged_file_is_said_and_kept_when_the_image_is_saved(client, session):
    client.post("/api/images/0/map?base=0", content=bytes(96 * 96))
    file = next(session.folder.glob("*.png"))
    file.write_bytes(b"nothing")
    view = client.get("/api/images/0").json()
    assert "cannot be read" in view["damaged"]
    assert view["revision"] == 0
    assert view["map"] == view["own"]
    saved = client.post("/api/images/0/map?base=0", content=bytes(96 * 96)).json()
    assert (session.folder / saved["set_aside"]).read_bytes() == b"nothing"
    assert client.get("/api/images/0").json()["damaged"] is None
    assert not load_maps(session.folder)[0].grey.any()


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("/api/images/0/map?base=0", b"short", 422),
        ("/api/images/0/map?base=0", bytes(96 * 96 + 1), 422),
        ("/api/images/0/infer", b"", 422),
        ("/api/images/999/map?base=0", bytes(96 * 96), 422),
        ("/api/images/0/steps?keep=0&base=0&seen=0", b"short", 422),
        ("/api/images/0/steps?keep=-1&base=0&seen=0", bytes(96 * 96), 400),
        ("/api/images/0/steps?keep=0&base=0", bytes(96 * 96), 400),
        ("/api/images/999/steps?keep=0&base=0&seen=0", bytes(96 * 96), 422),
        ("/api/images/0/place?at=x&seen=0", b"", 400),
        ("/api/images/0/place?at=0&seen=" + "9" * 5000, b"", 400),
        ("/api/images/0/map", bytes(96 * 96), 400),
        ("/api/images/0/map?base=-1", bytes(96 * 96), 400),
        ("/api/images/0/map?base=" + "9" * 5000, bytes(96 * 96), 400),
        ("/api/images/0/map?base=%C2%B2", bytes(96 * 96), 400),
        ("/api/images/0/map?base=%FF%00", bytes(96 * 96), 400),
        ("/api/images/" + "9" * 5000 + "/map?base=0", bytes(96 * 96), 422),
        ("/api/images/%D9%A3/map?base=0", bytes(96 * 96), 404),
        ("/api/images/0%00/map?base=0", bytes(96 * 96), 404),
        ("/api/images/%FF/map?base=0", bytes(96 * 96), 404),
        ("/api/images/%2e%2e/%2e%2e/map?base=0", bytes(96 * 96), 404),
        ("/api/images/-1/map?base=0", bytes(96 * 96), 404),
        ("/api/images/x/map?base=0", bytes(96 * 96), 404),
    ],
)
def test_what_is_no_map_is_refused(client, session, path, content, status):
    answer = client.post(path, content=content)
    assert answer.status_code == status
    assert answer.json()["error"].endswith(".")
    assert not list(session.folder.rglob("*.png"))


def test_steps_come_back_as_they_were_sent(client, session):
    one, two = bytes([10]) * 96 * 96, bytes([20]) * 96 * 96
    first = client.post("/api/images/0/steps?keep=0&base=0&seen=0&saved=1", content=one).json()
    assert first == {"place": 0, "saved": 0, "base": 0, "version": 1, "count": 1}
    client.post("/api/images/0/steps?keep=1&base=0&seen=1&saved=0", content=two)
    assert client.get("/api/images/0").json()["steps"]["place"] == 1
    assert client.get("/api/images/0/steps").content == one + two
    assert client.get("/api/images/1/steps").content == b""
    assert client.get("/api/session").json()["images"][0]["unsaved"]
    moved = client.post("/api/images/0/place?at=0&seen=2").json()
    assert (moved["place"], moved["version"]) == (0, 3)
    stale = client.post("/api/images/0/steps?keep=1&base=0&seen=1&saved=0", content=two)
    assert stale.status_code == 409
    assert stale.json()["error"].startswith("Another page draws on this image")
    assert client.post("/api/images/0/place?at=9&seen=3").status_code == 409
    assert client.get("/api/images/0/steps").content == one + two


def test_a_start_is_reported_and_nothing_else_is_answered(session):
    report = StartReport()
    with TestClient(make_app(report, TOKEN), base_url=HERE, headers=OWN) as client:
        assert client.get("/api/start").status_code == 403  # not without the token
        client.get(f"/?token={TOKEN}")
        report.begin("Computing the maps")
        report.advance(3, 9)
        said = client.get("/api/start").json()
        assert said == {
            "ready": False,
            "step": "Computing the maps",
            "done": 3,
            "total": 9,
            "failure": None,
        }
        for path in ("/api/session", "/api/images/0", "/api/images/0/frame.png"):
            answer = client.get(path)
            assert answer.status_code == 503
            assert "still starting" in answer.json()["error"]
        report.session = session
        assert client.get("/api/start").json()["ready"]
        assert client.get("/api/session").status_code == 200


def test_a_page_that_waits_hears_why_a_start_failed():
    report = StartReport()
    report.fail("nobody asks", patience=60)  # and nobody is waited for
    report = StartReport()
    with TestClient(make_app(report, TOKEN), base_url=HERE, headers=OWN) as client:
        client.get(f"/?token={TOKEN}")
        client.get("/api/start")
        failing = threading.Thread(target=report.fail, args=("The queue is empty.", 60))
        failing.start()
        while client.get("/api/start").json()["failure"] is None:
            time.sleep(0.05)
        failing.join(timeout=30)
        assert not failing.is_alive()


# --- whom it refuses


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:8765"},
        {"host": "127.0.0.1.evil.example:8765"},
        {"host": ""},
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "https://127.0.0.1:8765"},
        {"origin": "null"},
        {"host": "evil.example", "origin": "http://evil.example"},
    ],
)
def test_other_web_sites_are_refused(client, session, headers):
    """A name that was rebound to 127.0.0.1 shows in Host, another page in Origin."""
    for answer in (
        client.get("/api/session", headers=headers),
        client.get("/api/images/0/steps", headers=headers),
        client.post("/api/images/0/map?base=0", content=bytes(96 * 96), headers=headers),
        client.post(
            "/api/images/0/steps?keep=0&base=0&seen=0", content=bytes(96 * 96), headers=headers
        ),
        client.post("/api/images/0/place?at=0&seen=0", headers=headers),
    ):
        assert answer.status_code == 403
    assert not list(session.folder.rglob("*.png"))
    assert not (session.folder / "steps").exists()


def test_a_post_without_origin_is_refused(session):
    with TestClient(make_app(session, TOKEN), base_url=HERE) as client:
        client.get(f"/?token={TOKEN}")
        assert client.get("/api/session").status_code == 200
        assert client.post("/api/images/0/map?base=0", content=bytes(96 * 96)).status_code == 403


def test_the_page_may_be_reached_by_another_port_of_this_machine(session):
    """As through ssh -L 9000:127.0.0.1:8765."""
    with TestClient(make_app(session, TOKEN), base_url="http://localhost:9000") as client:
        answer = client.post(
            f"/api/images/0/infer?token={TOKEN}",
            content=bytes(96 * 96),
            headers={"origin": "http://localhost:9000"},
        )
        assert answer.status_code == 200


def test_only_this_machine_can_connect():
    with listen(0) as listening:
        address, port = listening.getsockname()
        assert address == "127.0.0.1"
        with pytest.raises(
            BenchError, match=rf"port {port} cannot be used .* choose another with --port"
        ):
            listen(port)


# --- the command


@pytest.fixture(scope="module")
def card(abn, tmp_path_factory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model"), "abn", abn, {}))


def cambench(monkeypatch: pytest.MonkeyPatch, *words: object) -> object:
    monkeypatch.setattr(sys, "argv", ["cambench", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> None:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len([line for line in lines if line.startswith("Error: ")]) == 1
    for word in words:
        assert word in lines[-1]


def test_what_cannot_be_edited_is_one_sentence(card, monkeypatch, capsys, tmp_path):
    edit = ["edit", "--subset", "scenes-val", "--out", tmp_path / "maps", "--port", "0"]
    assert cambench(monkeypatch, *edit, "--model", "resnet-scenes") == 2
    refused(capsys, "resnet-scenes has no attention branch")
    with listen(0) as listening:
        port = listening.getsockname()[1]
        assert cambench(monkeypatch, *edit, "--model", card, "--port", port) == 2
    refused(capsys, f"port {port} cannot be used")
    (tmp_path / "file").write_text("")
    assert cambench(monkeypatch, *edit, "--model", card, "--out", tmp_path / "file") == 2
    refused(capsys, "choose another --out")
    assert cambench(monkeypatch, *edit, "--model", card, "--subset", "scenes-vall") == 2
    refused(capsys, "scenes-vall")
    assert not (tmp_path / "maps").exists()


def test_an_empty_queue_is_one_sentence(card, abn, monkeypatch, capsys, tmp_path):
    import bench
    from bench.finetune.placement import find_placements

    wrong = next(
        p.index
        for p in find_placements(abn, bench.load_subset("scenes-val", limit=24))
        if not p.right
    )
    subset = f"scenes-val[{wrong}:{wrong + 1}]"
    out = ["--out", tmp_path / "maps", "--port", "0"]
    assert cambench(monkeypatch, "edit", "--model", card, "--subset", subset, *out) == 2
    refused(capsys, "The queue is empty", "--all")


def test_simulate_says_simulated(card, monkeypatch, capsys, tmp_path):
    words = [
        "finetune",
        "simulate",
        "--model",
        card,
        "--subset",
        "scenes-val[:12]",
        "--out",
        tmp_path / "maps",
    ]
    assert cambench(monkeypatch, *words, "--share", "0.5", "--soft", "0", "--truth", "boxes") == 0
    maps = load_maps(tmp_path / "maps")
    assert all(one.facts["source"] == "simulated:boxes" for one in maps)
    assert f"{len(maps)} simulated maps" in capsys.readouterr().out
    assert cambench(monkeypatch, *words, "--truth", "guesses") == 2
    refused(capsys, "guesses", "simulated")
    assert cambench(monkeypatch, *words, "--share", "2") == 2
    refused(capsys, "share of 2", "simulated")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_the_command_serves_until_ctrl_c(card, tmp_path):
    command = [
        sys.executable,
        "-m",
        "bench",
        "edit",
        "--model",
        card,
        "--subset",
        "scenes-val[:8]",
        "--limit",
        "2",
    ]
    command += ["--port", "0", "--out", str(tmp_path / "maps")]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
        "DISPLAY": "",
    }
    with interruptible(command, environment) as process:
        lines = []
        while not (lines and " images to edit" in lines[-1]):
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr.read()
        page = re.search(r"Open (http://127\.0\.0\.1:\d+/\?token=[\w-]{43})", lines[0])[1]
        address = page.partition("/?")[0]
        assert [line.strip() for line in lines[1:4]] == [
            f"Loading the network {card} ...",
            "Opening the images of scenes-val[:8] ...",
            "Computing the maps ...",
        ]
        assert re.match(r"2 images to edit, of 8 looked at; 0 of 2 drawn", lines[4])
        with httpx.Client(
            base_url=address, headers={"origin": address}
        ) as client:  # stays connected, as a tab does
            for _ in range(100):
                try:
                    assert client.get("/").status_code == 403
                    assert client.get(page).status_code == 200
                    break
                except httpx.ConnectError:
                    time.sleep(0.1)
            saved = client.post("/api/images/0/map?base=0", content=bytes([7]) * 96 * 96)
            assert saved.json()["revision"] == 1
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=30)
    assert process.returncode == 0, error
    assert "Closed; the maps are in" in out
    assert "Traceback" not in error
    assert np.all(load_maps(tmp_path / "maps")[0].grey == 7)
