"""Who is let into the editor, and that no request, however odd, ends it: over real sockets."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import re
import socket
import stat
import sys
import threading
import time
import webbrowser
from collections.abc import Iterator

import pytest
import uvicorn

from bench.editor import (
    Session,
    address_of,
    listen,
    make_token,
    patient_protocol,
    request_reading,
    server,
    serving,
)
from bench.editor.page_access import write_opener
from bench.finetune.attention_maps import load_map, load_maps

SIDE = 96 * 96
EVERY_ADDRESS = (
    *("/", "/editor.js", "/editor.css", "/api/session", "/api/images/0"),
    *("/api/images/0/frame.png", "/nothing", "/api/images/99999"),
)


class Served:
    """A session behind its real server; `ask` sends bytes as they are."""

    def __init__(self, session: Session) -> None:
        self.session, self.listening, self.token = session, listen(0), make_token()
        self.port = self.listening.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self.server = uvicorn.Server(server.make_config(session, self.token))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listening]})
        self.thread.start()

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.listening.close()

    def ask(self, sent: bytes, timeout: float = 20) -> tuple[int, bytes]:
        """Return (status, body) of the first answer; status 0 where the connection just ends."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(sent)
            with contextlib.closing(http.client.HTTPResponse(connection)) as answer:
                try:
                    answer.begin()
                    return answer.status, answer.read()
                except http.client.BadStatusLine:
                    return 0, b""

    def write(
        self, method: str, path: str, body: bytes = b"", *more: str, length: str | None = None
    ) -> bytes:
        """Return a request of the page's own, with the token and a body."""
        mark = "&" if "?" in path else "?"
        lines = [f"{method} {path}{mark}token={self.token} HTTP/1.1", f"Host: {self.host}"]
        lines += [f"Origin: http://{self.host}", *more]
        if length != "":
            lines.append(f"Content-Length: {len(body) if length is None else length}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    def is_alive(self) -> bool:
        status, body = self.ask(self.write("GET", "/api/session"))
        return status == 200 and json.loads(body)["model"] == "abn"


@pytest.fixture(scope="module")
def served(abn, scenes, tmp_path_factory) -> Iterator[Served]:
    with Session(abn, scenes.limit(8), tmp_path_factory.mktemp("maps"), everything=True) as session:
        running = Served(session)
        yield running
        running.close()


def is_sentence(body: bytes) -> bool:
    text = body.decode()
    text = json.loads(text)["error"] if text.startswith("{") else text.strip()
    return bool(re.fullmatch(r"[^\n\"]{10,250}\.", text)) and "Traceback" not in text


# --- the token


@pytest.mark.parametrize("given", ["", "?token=", "?token=wrong", "?token=%FF", "?token=x&token=y"])
@pytest.mark.parametrize("path", EVERY_ADDRESS)
def test_a_request_without_the_token_gets_403_and_nothing_else(served, path, given):
    for method in ("GET", "POST", "OPTIONS", "BREW"):
        body = bytes(SIDE) if method == "POST" else b""
        sent = f"{method} {path}{given} HTTP/1.1\r\nHost: {served.host}"
        sent += f"\r\nOrigin: http://{served.host}"
        sent += f"\r\nContent-Length: {len(body)}\r\nCookie: cambench_editor_0=1; x\r\n\r\n"
        status, answer = served.ask(sent.encode() + body)
        assert (status, answer.count(b"\n")) == (403, 1), (method, answer)
        assert b"cambench edit" in answer
    assert not list(served.session.folder.glob("*.png"))


def test_a_save_without_the_token_saves_nothing(served):
    right = served.write("POST", "/api/images/0/map?base=0", bytes(SIDE))
    wrong = right.replace(served.token.encode(), make_token().encode())
    assert served.ask(wrong)[0] == 403
    assert not list(served.session.folder.rglob("*.png"))


def test_the_page_leaves_a_cookie_that_scripts_and_other_sites_do_not_get(served):
    connection = http.client.HTTPConnection(served.host)
    connection.request("GET", f"/?token={served.token}")
    answer = connection.getresponse()
    page = answer.read().decode()
    assert served.token not in page
    cookie = answer.headers["set-cookie"]
    pair, *rules = cookie.split("; ")
    assert rules == ["Path=/", "HttpOnly", "SameSite=Strict"]
    for path in ("/", "/editor.js", "/api/session", "/api/images/0/frame.png"):  # a reload, too
        connection.request("GET", path, headers={"Cookie": f"other=1; {pair}"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
    connection.request("GET", "/?token=" + make_token(), headers={"Cookie": pair})
    assert connection.getresponse().status == 403  # an address of an older editor is said
    connection.close()


def test_two_editors_in_one_browser_have_two_cookies(served, abn, scenes, tmp_path):
    with Session(abn, scenes.limit(8), tmp_path, everything=True) as session:
        other = Served(session)
        names = []
        for one in (served, other):
            connection = http.client.HTTPConnection(one.host)
            connection.request("GET", f"/?token={one.token}")
            answer = connection.getresponse()
            names.append(answer.headers["set-cookie"].partition("=")[0])
            answer.read()
            connection.close()
        other.close()
    assert names[0] != names[1]


def test_each_answer_keeps_other_pages_out(served):
    connection = http.client.HTTPConnection(served.host)
    for path in (f"/?token={served.token}", f"/nothing?token={served.token}", "/api/session"):
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        said = {name.lower(): value for name, value in answer.getheaders()}
        assert said["cross-origin-resource-policy"] == "same-origin"
        assert said["cross-origin-opener-policy"] == "same-origin"
        assert said["referrer-policy"] == "no-referrer"
        assert said["x-content-type-options"] == "nosniff"
        policy = said["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "http" not in policy
        assert "*" not in policy
        assert "server" not in said
    connection.close()


def test_the_token_is_in_no_log(served, caplog, capfd):
    with caplog.at_level(logging.DEBUG):
        served.ask(served.write("GET", "/api/session"))
        served.ask(served.write("POST", "/api/images/0/map?base=x", b"short"))
    out, error = capfd.readouterr()
    assert served.token not in caplog.text + out + error


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes of files")
def test_the_browser_is_not_started_with_the_token(tmp_path, monkeypatch):
    """A command line is open to every user of a machine; the file of the address is not."""
    opened = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    with listen(0) as listening:
        address = address_of(listening, "secret")
    with serving._opened(tmp_path, address, True):
        assert [one.rpartition("/")[2] for one in opened] == ["open-editor.html"]
        assert "secret" not in opened[0]
        file = tmp_path / "open-editor.html"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert address in file.read_text()
    assert not file.exists()
    file.symlink_to(tmp_path / "elsewhere")
    write_opener(tmp_path, address)  # a link in its place is not written through
    assert not (tmp_path / "elsewhere").exists()


# --- odd requests


def odd_requests(served: Served) -> Iterator[tuple[str, bytes]]:
    save, grey = "/api/images/0/map?base=0", bytes(SIDE)
    yield "huge length", served.write("POST", save, grey, length="1" + "0" * 12)
    yield "length of 5,000 digits", served.write("POST", save, grey, length="9" * 5000)
    yield "negative length", served.write("POST", save, grey, length="-1")
    yield "two lengths", served.write("POST", save, grey, "Content-Length: 3")
    yield "no length", served.write("POST", save, b"", length="")
    yield (
        "short chunks",
        served.write(
            "POST", save, b"3\r\nabc\r\n0\r\n\r\n", "Transfer-Encoding: chunked", length=""
        ),
    )
    yield (
        "broken chunks",
        served.write("POST", save, b"zz\r\nabc\r\n", "Transfer-Encoding: chunked", length=""),
    )
    yield (
        "long chunks",
        served.write(
            "POST", save, b"%x\r\n" % (2 * SIDE) + 2 * grey, "Transfer-Encoding: chunked", length=""
        ),
    )
    yield "a map of another size", served.write("POST", save, bytes(224 * 224))
    yield "JSON", served.write("POST", save, b'{"map": NaN}')
    yield "deep JSON", served.write("POST", save, b"[" * 100_000)
    for base in ("9" * 5000, "-1", "1e9", "NaN", "0x1", "", "%00", "%FF", "%C2%B2", "1&base=x"):
        yield f"base {base[:9]}", served.write("POST", f"/api/images/0/map?base={base}", grey)
    for k in ("8", "9" * 5000, "-1", "1.5", "NaN", "%00", "%FF", "..", "%2e%2e", "%D9%A3", "0%2F1"):
        yield f"image {k[:9]}", served.write("GET", f"/api/images/{k}")
        yield f"save of image {k[:9]}", served.write("POST", f"/api/images/{k}/map?base=0", grey)
    for path in ("/../session.py", "/%2e%2e/session.py", "/..%5cserver.py", "//etc/passwd", "/%00"):
        yield path, served.write("GET", path)
    for method in ("PUT", "DELETE", "PATCH", "BREW", "OPTIONS", "GET"):
        yield f"{method} of a save", served.write(method, save, grey)
    for method in ("POST", "PUT", "DELETE", "BREW"):
        yield f"{method} of a page", served.write(method, "/editor.js", grey)
    yield "no HTTP", b"hello\r\n\r\n"
    yield "bytes", bytes(range(128, 256)) * 3 + b"\r\n\r\n"
    yield "long headers", served.write("GET", "/", b"", "X: " + "x" * 200_000)
    yield "HTTP/9", b"GET / HTTP/9.9\r\nHost: x\r\n\r\n"
    yield "no host", b"GET / HTTP/1.1\r\n\r\n"
    yield "odd host", b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n"
    yield "a stranger's host", served.write("GET", "/").replace(b"127.0.0.1", b"evil.example")
    yield (
        "a websocket",
        served.write("GET", "/nothing", b"", "Upgrade: websocket", "Connection: upgrade"),
    )


def test_what_is_odd_gets_4xx_and_one_sentence_and_the_editor_lives_on(served, capfd):
    answers = {name: served.ask(sent) for name, sent in odd_requests(served)}
    wrong = {n: a for n, a in answers.items() if not 400 <= a[0] < 500 or not is_sentence(a[1])}
    assert not wrong
    assert len(answers) > 60
    assert served.is_alive()
    assert not list(served.session.folder.rglob("*.png"))
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_client_that_leaves_or_stays_silent_takes_nobodys_place(served, monkeypatch, capfd):
    monkeypatch.setattr(request_reading, "BODY_SECONDS", 0.5)
    monkeypatch.setattr(patient_protocol, "PATIENCE", 0.5)
    begun = served.write("POST", "/api/images/0/map?base=0", bytes(100), length=str(SIDE))
    for sent in (b"", b"GET / HT", begun):  # and gone
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(sent)
    silent = [socket.create_connection(("127.0.0.1", served.port), timeout=20) for _ in range(40)]
    for number, connection in enumerate(silent):
        connection.sendall((b"", b"GET / HT")[number % 2])
    start = time.monotonic()
    status, body = served.ask(begun)
    assert (status, is_sentence(body)) == (408, True)
    for connection in silent:
        assert connection.recv(1) == b""
        connection.close()
    assert time.monotonic() - start < 15
    assert served.is_alive()
    assert "Traceback" not in "".join(capfd.readouterr())


def test_what_fails_inside_is_a_sentence(served, monkeypatch, capfd):
    def fail(_k: int) -> None:
        raise RuntimeError("CUDA error\nmuch more")

    with monkeypatch.context() as patch:
        patch.setattr(served.session, "view", fail)
        status, body = served.ask(served.write("GET", "/api/images/0"))
    assert (status, is_sentence(body)) == (500, True)
    assert served.is_alive()
    assert "Traceback" not in "".join(capfd.readouterr())


def test_saves_at_once_lose_nothing(served):
    """Ten tabs that began from the same version: one save counts, and each map lies on disk."""
    maps = [bytes([number + 1]) * SIDE for number in range(10)]
    statuses: list[int] = []

    def save(grey: bytes) -> None:
        statuses.append(served.ask(served.write("POST", "/api/images/3/map?base=0", grey))[0])

    threads = [threading.Thread(target=save, args=(grey,)) for grey in maps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, *[409] * 9]
    folder = served.session.folder
    kept = sorted((folder / "history").glob("*refused*.png"))
    found = [*load_maps(folder), *map(load_map, kept)]
    assert sorted(one.grey.tobytes() for one in found) == maps
