"""Models of the hub: found in its cache on this machine, and downloaded from a stand-in of it on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bridge.commands.fetch import wanted
from core.hub import cached, hub_name, located
from core.tiny import WEIGHTS

ROOT = Path(__file__).resolve().parents[3]
NAME, REVISION = "someone/tiny-turbo", "c" * 40


class Hub(ThreadingHTTPServer):
    """Serves a folder's files as the hub serves a repository. cut: this many bytes of a weights file, then the end."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.folder = folder
        self.cut: int | None = None
        self.asked: list[str] = []
        self.sent = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._file(body=False)

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.path.startswith(f"/api/models/{NAME}/tree/"):
            paths = [path for path in sorted(self.server.folder.rglob("*")) if path.is_file()]
            tree = [
                {
                    "type": "file",
                    "path": path.relative_to(self.server.folder).as_posix(),
                    "size": path.stat().st_size,
                    "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
                }
                for path in paths
            ]
            self._json(tree)
        elif self.path.startswith(f"/api/models/{NAME}"):
            files = [path for path in self.server.folder.rglob("*") if path.is_file()]
            siblings = [
                {"rfilename": path.relative_to(self.server.folder).as_posix(), "size": path.stat().st_size}
                for path in files
            ]
            self._json({"id": NAME, "modelId": NAME, "sha": REVISION, "siblings": siblings})
        elif self.path.startswith("/api/"):
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._file(body=True)

    def _json(self, said: object) -> None:
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, body: bool) -> None:
        match = re.fullmatch(rf"/{NAME}/resolve/{REVISION}/(.+)", self.path)
        path = self.server.folder / match[1] if match else None
        if path is None or not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = path.read_bytes()
        begin = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked:
            begin = int(asked[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        if body:
            rest = content[begin:]
            if self.server.cut is not None and path.suffix == ".safetensors":
                rest = rest[: self.server.cut]
                self.close_connection = True
            self.server.sent += len(rest)
            self.wfile.write(rest)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    shutil.copytree(WEIGHTS, tmp_path / "repository")
    (tmp_path / "repository" / "picture.png").write_bytes(b"not asked for")
    server = Hub(tmp_path / "repository")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join(20)
    server.server_close()


def fetch(
    hub: Hub, home: Path, name: str = NAME, command: tuple[str, ...] = ("-m", "bridge", "fetch"), **more: str
) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGINGFACE"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", **more}
    return subprocess.run(
        [sys.executable, *command, name],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=300,
    )


def test_a_model_is_downloaded_found_by_its_name_and_not_downloaded_twice(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    done = fetch(hub, home)
    assert done.returncode == 0, done.stderr
    assert f"--model {NAME}" in done.stderr + done.stdout
    assert not any("picture.png" in path for path in hub.asked)
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    folder = located(NAME)
    assert folder == cached(NAME) / "snapshots" / REVISION
    for path in (hub.folder / "unet").glob("*"):
        assert (folder / "unet" / path.name).read_bytes() == path.read_bytes()
    sent = hub.sent
    again = fetch(hub, home)
    assert again.returncode == 0 and "0 MB to download" in again.stderr
    assert hub.sent == sent


def test_an_interrupted_download_is_said_and_goes_on(hub: Hub, tmp_path: Path) -> None:
    home, hub.cut = tmp_path / "home", 1000
    cut = fetch(hub, home)
    assert cut.returncode == 1 and "the same command goes on with it" in cut.stderr
    assert "Traceback" not in cut.stderr
    hub.cut = None
    assert fetch(hub, home).returncode == 0


def test_a_disk_that_fills_up_meanwhile_is_said(hub: Hub, tmp_path: Path) -> None:
    """The space is looked at before; whatever else writes there may take it since."""
    script = (
        "import sys, huggingface_hub\n"
        "def full(*arguments, **more): raise OSError(28, 'No space left on device')\n"
        "huggingface_hub.snapshot_download = full\n"
        "from bridge.commands.fetch import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = fetch(hub, tmp_path / "home", command=("-c", script))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"the disk of {tmp_path / 'home'}" in done.stderr and "is full; make room" in done.stderr


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("someone/nothing", {}, "the hub has no model someone/nothing"),
        (NAME, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ("nothing", {}, "give ORG/NAME"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_sentence(
    hub: Hub, tmp_path: Path, name: str, more: dict[str, str], said: str
) -> None:
    done = fetch(hub, tmp_path / "home", name, **more)
    assert done.returncode != 0 and said in done.stderr and "Traceback" not in done.stderr


def test_a_repository_that_is_no_diffusers_model_is_refused_before_anything_is_downloaded(
    hub: Hub, tmp_path: Path
) -> None:
    (hub.folder / "model_index.json").unlink()
    done = fetch(hub, tmp_path / "home")
    assert done.returncode == 1 and "no whole model in the diffusers layout" in done.stderr
    assert hub.sent == 0


def test_of_clips_repository_the_vocabulary_is_taken_for_single_files(hub: Hub, tmp_path: Path) -> None:
    shutil.rmtree(hub.folder)
    hub.folder.mkdir()
    (hub.folder / "vocab.json").write_text(json.dumps({"!": 0}))
    for name in ("merges.txt", "tokenizer_config.json", "config.json", "model.safetensors", "pytorch_model.bin"):
        (hub.folder / name).write_text("{}")
    home = tmp_path / "home"
    done = fetch(hub, home)
    assert done.returncode == 0, done.stderr
    assert "the vocabulary for single files" in done.stderr
    (snapshot,) = home.glob("hub/models--*/snapshots/*")
    assert {path.name for path in snapshot.iterdir()} == {"vocab.json", "merges.txt", "tokenizer_config.json"}


def test_of_the_weights_the_half_precision_ones_are_taken_where_there_are_any() -> None:
    weights = "diffusion_pytorch_model"
    files = [
        "README.md",
        "model_index.json",
        "sd_turbo.safetensors",
        "scheduler/scheduler_config.json",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "unet/config.json",
        f"unet/{weights}.safetensors",
        f"unet/{weights}.fp16.safetensors",
        f"unet/{weights}.bin",
        "vae/config.json",
        f"vae/{weights}.safetensors",
        "text_encoder/config.json",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model-00002-of-00002.safetensors",
        "text_encoder/model.safetensors.index.json",
        "text_encoder/pytorch_model.bin",
        "safety_checker/model.safetensors",
    ]
    assert wanted(files) == sorted(
        set(files)
        - {
            "README.md",
            "sd_turbo.safetensors",
            f"unet/{weights}.safetensors",
            f"unet/{weights}.bin",
            "text_encoder/pytorch_model.bin",
            "safety_checker/model.safetensors",
        }
    )


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("https://huggingface.co/stabilityai/sd-turbo", "stabilityai/sd-turbo"),
        ("https://huggingface.co/stabilityai/sd-turbo/tree/main?not-for-all=1", "stabilityai/sd-turbo"),
        ("hf.co/stabilityai/sd-turbo/", "stabilityai/sd-turbo"),
        ("stabilityai/sd-turbo", "stabilityai/sd-turbo"),
        ("models/sd-turbo", "models/sd-turbo"),
        ("https://example.org/stabilityai/sd-turbo", "https://example.org/stabilityai/sd-turbo"),
    ],
)
def test_the_address_of_a_models_page_stands_for_its_name(given: str, name: str) -> None:
    assert hub_name(given) == name


def test_a_model_in_the_cache_is_found_by_its_page_and_a_folder_below_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    there = tmp_path / "hub" / "models--some--one" / "snapshots" / "a"
    (there / "unet").mkdir(parents=True)
    assert located("https://huggingface.co/some/one") == there
    assert located("~/models/turbo") == tmp_path / "models" / "turbo"


def test_a_cache_folder_stands_for_the_snapshot_that_was_downloaded_last(tmp_path: Path) -> None:
    folder = tmp_path / "models--someone--model"
    for revision in ("a", "b"):
        (folder / "snapshots" / revision / "unet").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("a")
    assert located(str(folder)) == folder / "snapshots" / "a"
    (folder / "refs" / "main").write_text("gone")
    assert located(str(folder)).parent == folder / "snapshots"
    assert located(str(tmp_path / "no" / "where")) == tmp_path / "no" / "where"
