"""URIs without their secrets. Pure text: whoever opens one is ``distcorr.data.storage``."""

from __future__ import annotations

import re

from distcorr.errors import DistcorrError

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)")
_BUCKETS = ("s3", "gs", "gcs")  # schemes whose authority is a bucket, which has no port
_PORT = re.compile(r"[^:@]*(:\d*)?")


def without_secrets(uri: str) -> str:
    """The URI without ``user:password@`` and query, fit for messages and manifests."""
    return re.sub(r"//[^/@]*@", "//", uri.split("?", 1)[0])


def refuse_password(uri: str) -> None:
    """Passwords belong in the environment: settings, manifests and Ray's list of jobs are kept.

    Args:
        uri: any path or URI.

    Raises:
        DistcorrError: it holds a password; the message repeats nothing of it, because a password
            with a slash in it cannot be told from the path that follows.
    """
    found = _URI.match(uri)
    if found is None:
        return
    scheme, authority = found[1].lower(), found[2]
    user, _, host = authority.rpartition("@")
    port_only = scheme not in _BUCKETS and _PORT.fullmatch(host)
    if ":" in user or (":" in host and not port_only):
        raise DistcorrError(
            f"The {scheme}:// URI has a password in it, which files and logs would keep.",
            "leave it out: credentials come from the environment (AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS), from ~/.aws, or from the "
            "machine's role",
        )
