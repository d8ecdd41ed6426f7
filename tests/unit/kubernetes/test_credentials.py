"""Credentials are what the files say now; a file that is not as it should be is named, with the reason."""

from __future__ import annotations

import asyncio
import base64
import shutil
import ssl
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
import uvloop
from aiohttp import web

from lbd.kubernetes.api.client import ApiClient, ApiError
from lbd.kubernetes.api.credential_store import CHECK_INTERVAL_S, CredentialStore
from lbd.kubernetes.api.credentials import Credentials, CredentialsError, load, stamp
from lbd.model.kubernetes import Kubernetes

HTTP = "http://127.0.0.1:8080"


def read(path: str, context: str | None = None) -> Credentials:
    return load(Kubernetes(kubeconfig=path, context=context))


def refused(path: str, context: str | None = None) -> str:
    with pytest.raises(CredentialsError) as caught:
        read(path, context)
    return str(caught.value)


def test_the_token_of_a_file_beside_the_kubeconfig_has_no_line_end(kubeconfig, monkeypatch, tmp_path_factory):
    path = kubeconfig.write(HTTP + "/")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    credentials = read(path)
    assert (credentials.server, credentials.authorization) == (HTTP, "Bearer first")
    assert {name for name, _stamp in credentials.files} == {path, str(kubeconfig.folder / "token")}
    assert not credentials.renewable


def test_the_secret_is_not_shown(kubeconfig):
    assert "first" not in repr(read(kubeconfig.write(HTTP)))


def test_a_token_file_wins_over_a_token_as_with_kubectl(kubeconfig):
    kubeconfig.write_token("of the file")
    assert read(kubeconfig.write(HTTP, {"token": "t", "tokenFile": "token"})).authorization == "Bearer of the file"
    assert read(kubeconfig.write(HTTP, {"token": "t\n"})).authorization == "Bearer t"


def test_a_context_may_be_named(kubeconfig):
    assert read(kubeconfig.write(HTTP), "other").server == "http://elsewhere.example:8080/prefix"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("", "is no kubeconfig"),
        ("[]", "is no kubeconfig"),
        ("{", "while parsing"),
        ("a: 1", "current-context"),
        ("current-context: x\ncontexts: []\nclusters: []\nusers: []", "x"),
        ("current-context: x\ncontexts: 7\nclusters: {}\nusers: no", "clusters is no list"),
        ("x" * (5 << 20), "is larger than"),
    ],
)
def test_a_kubeconfig_that_is_none_is_named_with_the_reason(tmp_path, content, said):
    path = tmp_path / "kubeconfig"
    if content is not None:
        path.write_text(content)
    message = refused(str(path))
    assert message.startswith(str(path))
    assert said in message


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ({"tokenFile": "missing"}, "missing"),
        ({"tokenFile": "empty"}, "empty is empty"),
        ({"token": "a\nb"}, "characters that no HTTP header has"),
        ({"token": "é"}, "characters that no HTTP header has"),
        ({"tokenFile": "huge"}, "is larger than"),
    ],
)
def test_a_token_that_cant_be_sent_is_an_error(kubeconfig, user, said):
    (kubeconfig.folder / "empty").write_text("\n")
    (kubeconfig.folder / "huge").write_text("x" * 100_000)
    assert said in refused(kubeconfig.write(HTTP, user))


@pytest.mark.parametrize("server", ["ftp://x", "", "127.0.0.1:6443"])
def test_a_server_that_is_no_url_is_an_error(kubeconfig, server):
    assert refused(kubeconfig.write(server))


def test_a_context_without_a_user_is_named(kubeconfig):
    assert "names no user" in refused(kubeconfig.write("https://127.0.0.1:1", {}))


def test_a_program_that_makes_tokens_is_run_and_its_error_is_shown(kubeconfig):
    script = kubeconfig.folder / "plugin"
    script.write_text(
        '#!/bin/sh\necho \'{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", '
        '"status": {"token": "made"}}\'\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    user = {"exec": {"command": str(script), "apiVersion": "client.authentication.k8s.io/v1"}}
    credentials = read(kubeconfig.write(HTTP, user))
    assert (credentials.authorization, credentials.renewable) == ("Bearer made", True)
    script.write_text("#!/bin/sh\necho no such cloud >&2\nexit 3\n")
    assert "no such cloud" in refused(kubeconfig.write(HTTP, user))


def test_the_service_account_of_a_pod(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(CredentialsError, match="token file does not exist"):
        load(Kubernetes(), tmp_path)
    (tmp_path / "token").write_text("in a pod\n")
    shutil.copy(ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt", tmp_path / "ca.crt")
    credentials = load(Kubernetes(), tmp_path)
    assert (credentials.server, credentials.authorization) == ("https://[fd00::1]:443", "Bearer in a pod")
    assert credentials.tls is not None
    assert credentials.tls.verify_mode is ssl.CERT_REQUIRED
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST")
    with pytest.raises(CredentialsError, match="service account"):
        load(Kubernetes(), tmp_path)


# TLS.


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.crt, and server.crt and client.crt of it with their keys."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificates of these tests, is not installed")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test-ca")
    for name, extension in (("server", "subjectAltName=IP:127.0.0.1"), ("client", "extendedKeyUsage=clientAuth")):
        (folder / "extension").write_text(extension)
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", "extension", "-out", f"{name}.crt")  # fmt: skip
    return folder


def encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def server_context(certificates: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "ca.crt"))
    context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_a_client_certificate_in_the_kubeconfig_is_shown_and_no_key_is_left_on_the_disk(
    kubeconfig, certificates, scripted_api, monkeypatch, tmp_path
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()

    async def scene() -> None:
        async with scripted_api(server_context(certificates)) as api:

            async def handler(request: web.Request) -> web.StreamResponse:
                assert request.transport is not None
                subject = request.transport.get_extra_info("peercert")["subject"]
                return web.json_response({"subject": str(subject)})

            api.handler = handler
            user = {
                "client-certificate-data": encoded(certificates / "client.crt"),
                "client-key-data": encoded(certificates / "client.key"),
            }
            data = {"certificate-authority-data": encoded(certificates / "ca.crt")}
            for _load in range(2):  # the library remembers files that it has written, and they are gone now
                client = ApiClient(Kubernetes(kubeconfig=kubeconfig.write(api.url, user, **data)))
                assert "client" in str(await client.request("GET", "/x"))
                await client.close()

    uvloop.run(scene())
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_server_of_another_authority_is_not_spoken_to_unless_the_kubeconfig_says_so(
    kubeconfig, certificates, scripted_api
):
    async def scene() -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
        async with scripted_api(context) as api:
            client = ApiClient(Kubernetes(kubeconfig=kubeconfig.write(api.url)))
            with pytest.raises(ApiError, match="certificate verify failed"):
                await client.request("GET", "/x")
            await client.close()
            assert api.requests == []
            path = kubeconfig.write(api.url, **{"insecure-skip-tls-verify": True})
            client = ApiClient(Kubernetes(kubeconfig=path))
            assert await client.request("GET", "/x") == {}
            await client.close()

    uvloop.run(scene())


def test_a_certificate_that_is_replaced_makes_another_way_and_a_token_does_not(kubeconfig, certificates):
    for name in ("client.crt", "client.key", "ca.crt"):
        shutil.copy(certificates / name, kubeconfig.folder / name)
    user = {"client-certificate": "client.crt", "client-key": "client.key", "tokenFile": "token"}
    kubeconfig.write_token("a")
    path = kubeconfig.write("https://127.0.0.1:1", user, **{"certificate-authority": "ca.crt"})
    before = read(path)
    assert {Path(name).name for name, _stamp in before.files} == {
        "kubeconfig", "token", "client.crt", "client.key", "ca.crt",
    }  # fmt: skip
    kubeconfig.write_token("b")
    assert (read(path).way, read(path).authorization) == (before.way, "Bearer b")
    with (kubeconfig.folder / "ca.crt").open("a") as opened:
        opened.write((certificates / "server.crt").read_text())
    assert read(path).way != before.way
    shutil.copy(certificates / "server.key", kubeconfig.folder / "client.key")
    assert "client" in refused(path) or "MISMATCH" in refused(path).upper()


@pytest.mark.usefixtures("impatient")
def test_a_certificate_that_is_replaced_on_the_disk_is_shown_with_the_next_request(
    kubeconfig, certificates, scripted_api
):
    def show(name: str) -> None:
        for suffix in ("crt", "key"):
            shutil.copy(certificates / f"{name}.{suffix}", kubeconfig.folder / f"mine.{suffix}")

    async def scene() -> None:
        async with scripted_api(server_context(certificates)) as api:

            async def handler(request: web.Request) -> web.StreamResponse:
                assert request.transport is not None
                return web.json_response({"subject": str(request.transport.get_extra_info("peercert")["subject"])})

            api.handler = handler
            shutil.copy(certificates / "ca.crt", kubeconfig.folder / "ca.crt")
            show("client")
            user = {"client-certificate": "mine.crt", "client-key": "mine.key"}
            path = kubeconfig.write(api.url, user, **{"certificate-authority": "ca.crt"})
            client = ApiClient(Kubernetes(kubeconfig=path))
            assert "'client'" in str(await client.request("GET", "/x"))
            show("server")
            assert "'server'" in str(await client.request("GET", "/x"))
            await client.close()

    uvloop.run(scene())


# Keeping them up to date.


class Files:
    """What `load` gives, and how often it was asked."""

    def __init__(self, path: Path, *, renewable: bool = False) -> None:
        self.path, self.renewable, self.loads = path, renewable, 0
        self.error: str | None = None
        self.now_s = 100.0
        self.path.write_text("0")
        self.store = CredentialStore(self.load, lambda: self.now_s)

    def load(self) -> Credentials:
        self.loads += 1
        if self.error:
            raise CredentialsError(self.error)
        token = f"{self.path.read_text()}-{self.loads if self.renewable else 0}"
        return Credentials(
            HTTP, token, None, None, None, "w", ((str(self.path), stamp(str(self.path))),), self.renewable
        )

    def replace(self, text: str) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)


def test_files_are_looked_at_every_other_second_and_read_when_they_have_changed(tmp_path):
    async def scene() -> None:
        files = Files(tmp_path / "f")
        first = await files.store.current()
        files.replace("1")
        assert await files.store.current() is first
        files.now_s += CHECK_INTERVAL_S
        assert (await files.store.current()).authorization == "1-0"
        files.now_s += 100 * CHECK_INTERVAL_S
        await files.store.current()
        assert files.loads == 2

    asyncio.run(scene())


def test_many_who_ask_at_once_read_once(tmp_path):
    async def scene() -> None:
        files = Files(tmp_path / "f")
        await asyncio.gather(*(files.store.current() for _asker in range(10)))
        files.replace("1")
        files.now_s += CHECK_INTERVAL_S
        await asyncio.gather(*(files.store.current() for _asker in range(10)))
        assert files.loads == 2

    asyncio.run(scene())


def test_what_cant_be_read_any_more_is_kept_and_tried_again(tmp_path):
    async def scene() -> None:
        files = Files(tmp_path / "f")
        first = await files.store.current()
        files.replace("1")
        files.error = "half written"
        files.now_s += CHECK_INTERVAL_S
        assert await files.store.current() is first
        files.error = None
        files.now_s += CHECK_INTERVAL_S
        assert (await files.store.current()).authorization == "1-0"

    asyncio.run(scene())


def test_a_refusal_gives_others_only_if_there_are_others(tmp_path):
    async def scene() -> None:
        files = Files(tmp_path / "f")
        used = await files.store.current()
        assert await files.store.after_refusal(used) is None
        files.replace("1")
        fresh = await files.store.after_refusal(used)
        assert fresh is not None
        assert fresh.authorization == "1-0"
        assert await files.store.after_refusal(used) is fresh
        assert await files.store.after_refusal(fresh) is None
        assert files.loads == 2

    asyncio.run(scene())


def test_a_program_that_makes_tokens_is_run_again_after_a_refusal_but_not_without_end(tmp_path):
    async def scene() -> None:
        files = Files(tmp_path / "f", renewable=True)
        used = await files.store.current()
        files.now_s += 10.0
        fresh = await files.store.after_refusal(used)
        assert fresh is not None
        for _refusal in range(5):
            assert await files.store.after_refusal(fresh) is None
        assert files.loads == 2

    asyncio.run(scene())
