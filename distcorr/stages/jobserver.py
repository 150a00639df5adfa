"""Whether the Ray job server answers, and takes our token. The token itself is never shown."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import requests

from distcorr.stages.machine import FAIL, OK, Check
from distcorr.uris import without_secrets

_NAMES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")  # as ray job submit looks for it
_SECONDS = 10.0
_TOKEN = "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=FILE   (the head node's token)"


def address() -> str:
    """The server's address, or the cluster's; "" if none is set or it is this machine's own."""
    found = next((os.environ[name] for name in _NAMES if os.environ.get(name)), "")
    return "" if found in ("auto", "local") else found


def check() -> Check:
    """Ask as ``ray job submit`` would."""
    where = address()
    shown = without_secrets(where)
    if not where.startswith(("http://", "https://")):
        return _knock(where, shown)
    mode, token = os.environ.get("RAY_AUTH_MODE", ""), _token()
    headers = {"Authorization": f"Bearer {token}"} if mode == "token" and token else {}
    try:
        with requests.get(
            f"{where.rstrip('/')}/api/jobs/", headers=headers, timeout=_SECONDS, stream=True
        ) as answer:
            status = answer.status_code
    except requests.RequestException as error:  # its text may repeat a header
        why = "no answer in time" if isinstance(error, requests.Timeout) else type(error).__name__
        fix = "is it running, and may this machine reach it? ray dashboard cluster.yaml forwards it"
        return Check("job server", FAIL, f"{shown} cannot be reached: {why}", fix)
    if status == 200:
        return Check("job server", OK, f"{shown} answers{' and takes our token' * bool(headers)}")
    if status == 403:
        return Check("job server", FAIL, f"{shown} refuses our token: it has another one", _TOKEN)
    if status != 401:
        fix = "is that the address of a Ray dashboard, port 8265?"
        return Check("job server", FAIL, f"{shown} answers {status}", fix)
    if not token:
        return Check("job server", FAIL, f"{shown} wants a token, and there is none here", _TOKEN)
    detail = f"{shown} wants a token; there is one here, but RAY_AUTH_MODE is {mode or 'not set'}"
    return Check("job server", FAIL, detail, "export RAY_AUTH_MODE=token")


def _knock(where: str, shown: str) -> Check:
    """A cluster's own port: whether somebody listens."""
    host, _, port = where.removeprefix("ray://").rpartition(":")
    fix = "host:port of the cluster, ray://host:10001, or http://host:8265 for its job server"
    if not port.isdigit():
        return Check("job server", FAIL, f"{shown} names no host and port", fix)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS).close()
    except OSError as error:
        why = error.strerror or str(error)
        return Check("job server", FAIL, f"{shown} cannot be reached: {why}", fix)
    return Check("job server", OK, f"somebody listens at {shown}")


def _token() -> str:
    """Where Ray looks for it, in that order."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"
    try:
        return Path(path).expanduser().read_text().strip()
    except (OSError, ValueError):
        return ""
