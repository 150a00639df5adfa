"""The file system behind a URI, with bounds on how long a storage that is silent may keep us."""

from __future__ import annotations

import functools
import os
import socket
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from distcorr.errors import MISSING, DistcorrError, did_you_mean
from distcorr.uris import refuse_password, without_secrets

# By measurement: with 4 tries a request ends after some 4 s where nothing listens and 14 s where
# nothing answers. Arrow's own way with s3:// URIs takes 6 s and 100 s; Google's library tries for
# many minutes unless it is told, and with this limit ends after some 22 s.
_TRIES = 4
_CONNECT = 3.0  # s
_GOOGLE = "retry_limit_seconds=15"
_DENIALS = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "EXPIRED_TOKEN")
_S3_OPTIONS = ("region", "endpoint_override", "scheme", "anonymous", "tls_ca_file_path")


def open_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI, and the path within it: ``bucket/folder``.

    Args:
        uri: ``s3://bucket/folder``, ``gs://...``, or what else pyarrow knows. Options of the store
            stand in the query, for example ``?region=eu-west-1&endpoint_override=localhost:9000``.

    Raises:
        DistcorrError: the scheme or an option is unknown, no bucket is named, there is a password
            in the URI, or the bucket's region cannot be found out.
    """
    refuse_password(uri)
    try:
        if not uri.startswith("s3://"):
            system, root = fs.FileSystem.from_uri(_impatient(uri))
        else:
            parts = urlsplit(uri)
            root = unquote(f"{parts.netloc}{parts.path}")
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            system = _s3(parts.netloc, parts.query, endpoint or "") if parts.netloc else None
    except (pa.ArrowException, OSError, ValueError) as error:
        why = first_line(error).replace(uri, without_secrets(uri))  # some repeat all of it
        raise DistcorrError(
            f"Cannot open {without_secrets(uri)}: {why}",
            "give a path, or an s3:// or gs:// URI whose credentials this machine has",
        ) from error
    if not root or system is None:
        raise DistcorrError(
            f"{without_secrets(uri)} names no bucket.", "for example s3://bucket/folder"
        )
    return system, root.rstrip("/")


def require_bucket(system: fs.FileSystem, bucket: str) -> None:
    """Tell a bucket that is not there from an empty one: a run would notice when it first writes.

    Raises:
        DistcorrError: there is no such bucket.
        OSError: the store does not answer.
    """
    if system.get_file_info(bucket).type == fs.FileType.NotFound:
        raise DistcorrError(
            f"There is no bucket {bucket!r}, or not in this region.",
            "make it first, or mend its name; distcorr makes no buckets",
            MISSING,
        )


def first_line(error: BaseException) -> str:
    """What an error says, fit for one line of a message."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line.partition(" error_info=")[0]  # Google's say everything three times


def is_denial(error: OSError) -> bool:
    """Whether an object store has refused the credentials, or what they ask for."""
    return any(f"AWS Error {word}" in str(error) for word in _DENIALS)


def is_outage(error: OSError) -> bool:
    """Whether it is an object store that has failed, and not a file on disk."""
    return "AWS Error" in str(error) or "google::cloud" in str(error)


@functools.cache  # one connection pool for all folders of a bucket
def _s3(bucket: str, query: str, endpoint: str) -> fs.S3FileSystem:
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in _S3_OPTIONS:
            raise ValueError(
                f"unknown option {name!r}.{did_you_mean(name, _S3_OPTIONS)} "
                f"Known are: {', '.join(_S3_OPTIONS)}"
            )
    if endpoint and "endpoint_override" not in options:
        scheme, _, host = endpoint.rpartition("://")
        options |= {"endpoint_override": host.rstrip("/"), "scheme": scheme or "https"}
    if "region" not in options:
        options["region"] = _region(bucket, at_amazon="endpoint_override" not in options)
    return fs.S3FileSystem(
        region=options["region"],
        endpoint_override=options.get("endpoint_override"),
        scheme=options.get("scheme", "https"),
        anonymous=options.get("anonymous", "false").lower() == "true",
        tls_ca_file_path=options.get("tls_ca_file_path"),
        connect_timeout=_CONNECT,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_TRIES),
        # A small write is one PUT, not a multipart upload of one part.
        allow_delayed_open=True,
    )


def _region(bucket: str, at_amazon: bool) -> str:
    """The region of a bucket: as Amazon says, else as the environment does."""
    usual = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION", "")
    if not at_amazon:
        return usual or "us-east-1"
    try:
        # pyarrow asks for 100 s where packets are lost; a private network may let through its
        # own region only.
        socket.create_connection(("s3.amazonaws.com", 443), timeout=_CONNECT).close()
        return str(fs.resolve_s3_region(bucket))
    except OSError:
        if usual:
            return usual
        raise


def _impatient(uri: str) -> str:
    if not uri.startswith(("gs://", "gcs://")) or "retry_limit_seconds" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{_GOOGLE}"
