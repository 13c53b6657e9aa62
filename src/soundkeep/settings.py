"""Every setting, once: a TOML file, then the environment, then frozen. docs/settings.md lists all.

`SOUNDKEEP_SERVER__PORT=9000` overrides `port` of `[server]`. Relative paths are relative to the
file's folder. What cannot work is refused here, with what to do.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from soundkeep.foundation.errors import BadSettings

PREFIX = "SOUNDKEEP_"
REFERENCE_REGIONS = ("us-west", "us-east", "uk", "ap", "ca")
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
_URL = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")
_REGION_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_ENDPOINT = re.compile(r"(https?)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:\d{1,5})?")
_AWS_REGION = re.compile(r"[a-z0-9-]{1,40}")
_LAST_PORT = 65_535


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the service listens."""

    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 2
    public_url: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    trusted_proxies: tuple[str, ...] = ()
    log_level: str = "info"
    log_requests: bool = True
    metrics_networks: tuple[str, ...] = ("127.0.0.0/8", "::1/128")


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The control plane: where it lives, how long what it issues lasts."""

    database: str = "identity.db"
    secret_key_file: str = "secret.key"  # noqa: S105  a file name
    token_seconds: int = 3600
    signing_key_days: int = 30
    session_idle_minutes: int = 30
    session_hours: int = 12
    failures_per_key: int = 10
    failures_per_address: int = 50


class QuotaSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much one customer may keep in a region; 0 is without limit."""

    objects: int = 0
    bytes: int = 0


class S3Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to reach the bucket that `blobs` names; an empty endpoint is AWS."""

    endpoint: str = ""
    region: str = "us-east-1"
    access_key_id: str = ""
    secret_access_key: str = ""
    secret_access_key_file: str = ""
    addressing: Literal["path", "virtual"] = "path"
    checksum: Literal["sha256", "none"] = "sha256"
    allow_http: bool = False

    def __repr__(self) -> str:
        """Without the secret, wherever settings may be printed."""
        return f"S3Settings({self.endpoint!r}, {self.region!r}, {self.access_key_id!r})"


class RegionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One region: its database and where its bytes are."""

    database: str = ""
    blobs: str = ""
    s3: S3Settings = S3Settings()
    max_upload_bytes: int = 5 * 1024**3
    min_free_bytes: int = 64 * 1024**2
    search_seconds: int = 5
    count_milliseconds: int = 500
    upload_hours: int = 24
    verify_days: int = 30
    verify_bytes_per_second: int = 4 * 1024**2
    bulk_ids: int = 100_000
    bulk_days: int = 7
    undelete_days: int = 7
    quota_objects: int = 0
    quota_bytes: int = 0
    quotas: dict[str, QuotaSettings] = {}


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of it."""

    server: Server = Server()
    identity: Identity = Identity()
    regions: dict[str, RegionSettings] = msgspec.field(
        default_factory=lambda: {"us-east": RegionSettings()}
    )

    @property
    def base_url(self) -> str:
        """What clients call us: `public_url`, or the listening address."""
        if self.server.public_url:
            return self.server.public_url.rstrip("/")
        scheme = "https" if self.server.tls_certificate else "http"
        host = f"[{self.server.host}]" if ":" in self.server.host else self.server.host
        return f"{scheme}://{host}:{self.server.port}"

    @property
    def secure(self) -> bool:
        """Whether browsers reach us over TLS."""
        return self.base_url.startswith("https://")


def read(path: Path, env: Mapping[str, str]) -> Settings:
    """The settings of a file and an environment; BadSettings says what to change."""
    try:
        tree: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BadSettings(f"{path}: no such file. Make one: soundkeep init --dir DIR.") from None
    except OSError as error:
        raise BadSettings(f"{path}: {error.strerror}. Let this user read it.") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadSettings(f"{path}: {error}. Write TOML, in UTF-8.") from None
    _must_not_hold_secrets(tree)
    _override(tree, env)
    try:
        settings = msgspec.convert(tree, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise BadSettings(f"{path}: {error}. docs/settings.md lists every setting.") from None
    settings = _located(settings, path.parent.resolve())
    _check(settings)
    return _with_secrets(settings)


def _must_not_hold_secrets(tree: dict[str, Any]) -> None:
    regions = tree.get("regions")
    for name, region in regions.items() if isinstance(regions, dict) else ():
        s3 = region.get("s3") if isinstance(region, dict) else None
        if isinstance(s3, dict) and "secret_access_key" in s3:
            raise BadSettings(
                f"regions.{name}.s3.secret_access_key does not belong into this file: put it into "
                "a file of its own (secret_access_key_file) or into the environment."
            )


def _with_secrets(settings: Settings) -> Settings:
    """The settings with every secret that a file of its own holds."""

    def opened(name: str, region: RegionSettings) -> RegionSettings:
        file = region.s3.secret_access_key_file
        if not file:
            return region
        try:
            secret = Path(file).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            secret = ""
        if not secret:
            raise BadSettings(f"{file}: no secret (regions.{name}.s3.secret_access_key_file).")
        s3 = msgspec.structs.replace(region.s3, secret_access_key=secret)
        return msgspec.structs.replace(region, s3=s3)

    regions = {name: opened(name, region) for name, region in settings.regions.items()}
    return msgspec.structs.replace(settings, regions=regions)


def _override(tree: dict[str, Any], env: Mapping[str, str]) -> None:
    for name, value in env.items():
        if not name.startswith(PREFIX) or "__" not in name:
            continue
        *tables, leaf = name.removeprefix(PREFIX).lower().split("__")
        at = tree
        for table in tables:
            at = at.setdefault(table.replace("_", "-") if at is tree.get("regions") else table, {})
            if not isinstance(at, dict):
                raise BadSettings(f"{name}: {table} is no table in the file; write [{table}].")
        is_list = leaf in ("trusted_proxies", "metrics_networks")
        parts = [part.strip() for part in value.split(",")]
        at[leaf] = [part for part in parts if part] if is_list else value


def _located(settings: Settings, folder: Path) -> Settings:
    """The settings with every path absolute and every default path filled in."""

    def place(text: str, default: str = "") -> str:
        chosen = text or default
        remote = chosen.startswith(("postgresql://", "postgres://", "s3://"))
        if chosen.startswith("s3://"):
            return "s3://" + chosen.removeprefix("s3://").rstrip("/")
        return chosen if remote or not chosen else str(folder / chosen)

    replace = msgspec.structs.replace
    return replace(
        settings,
        server=replace(
            settings.server,
            tls_certificate=place(settings.server.tls_certificate),
            tls_key=place(settings.server.tls_key),
        ),
        identity=replace(
            settings.identity,
            database=place(settings.identity.database),
            secret_key_file=place(settings.identity.secret_key_file),
        ),
        regions={
            name: replace(
                region,
                database=place(region.database, f"regions/{name}/region.db"),
                blobs=place(region.blobs, f"regions/{name}/blobs"),
                s3=replace(
                    region.s3,
                    endpoint=region.s3.endpoint.rstrip("/"),
                    secret_access_key_file=place(region.s3.secret_access_key_file),
                ),
            )
            for name, region in settings.regions.items()
        },
    )


def _check(settings: Settings) -> None:
    if not settings.regions:
        raise BadSettings("Name at least one region: [regions.us-east].")
    for name in settings.regions:
        if not _REGION_NAME.fullmatch(name):
            raise BadSettings(f"Region {name!r}: use a-z, 0-9 and -, a letter first.")
        _check_bucket(name, settings.regions[name])
    _check_places(settings)
    _check_server(settings.server)
    _check_transport(settings.server)
    _check_numbers(settings)


def _check_places(settings: Settings) -> None:
    """Two planes in one database, or two regions in one store of bytes, would mix their data."""
    users = {settings.identity.database: "identity.database"}
    for name, region in settings.regions.items():
        bytes_at = region.s3.endpoint + region.blobs  # a bucket's name is its store's affair
        for setting, place in (("database", region.database), ("blobs", bytes_at)):
            user = f"regions.{name}.{setting}"
            if place in users:
                raise BadSettings(f"{users[place]} and {user} are one place: give each its own.")
            users[place] = user


def _check_bucket(name: str, region: RegionSettings) -> None:
    s3, table = region.s3, f"regions.{name}.s3"
    if not region.blobs.startswith("s3://"):
        if s3 != S3Settings():
            raise BadSettings(f"{table} needs a bucket: regions.{name}.blobs = 's3://NAME'.")
        return
    if not _BUCKET.fullmatch(region.blobs):
        raise BadSettings(
            f"regions.{name}.blobs must be like s3://BUCKET or s3://BUCKET/PREFIX: a-z, 0-9, . and "
            "- in the bucket's name, letters, digits, . _ and - in the prefix."
        )
    if not _AWS_REGION.fullmatch(s3.region):
        raise BadSettings(f"{table}.region must be like us-east-1.")
    endpoint = _ENDPOINT.fullmatch(s3.endpoint)
    if s3.endpoint and endpoint is None:
        raise BadSettings(f"{table}.endpoint must be like https://s3.example.com:9000.")
    if endpoint and endpoint[1] == "http" and not (s3.allow_http or _is_loopback(endpoint[2])):
        raise BadSettings(
            f"{table}.endpoint: plain HTTP would show recordings to the network. Use https://, or "
            "set allow_http = true where the network is safe."
        )
    secret = s3.secret_access_key or s3.secret_access_key_file
    if s3.secret_access_key and s3.secret_access_key_file:
        raise BadSettings(f"{table}: the secret is given twice, by the environment and by a file.")
    if bool(s3.access_key_id) != bool(secret) or (s3.endpoint and not secret):
        raise BadSettings(
            f"{table}: access_key_id and its secret go together (secret_access_key_file, or "
            "secret_access_key in the environment); only on AWS may both be left out."
        )


def _check_server(server: Server) -> None:
    if server.public_url and not _URL.fullmatch(server.public_url):
        raise BadSettings("server.public_url is what clients call: https://recordings.example.com.")
    if server.log_level not in LOG_LEVELS:
        raise BadSettings(f"server.log_level must be one of {', '.join(LOG_LEVELS)}.")
    for network in (*server.trusted_proxies, *server.metrics_networks):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise BadSettings(f"server: {error}. Write a CIDR range like 10.0.0.0/8.") from None


def _check_transport(server: Server) -> None:
    if bool(server.tls_certificate) != bool(server.tls_key):
        raise BadSettings("server.tls_certificate and server.tls_key go together: set both.")
    for file in filter(None, (server.tls_certificate, server.tls_key)):
        if not Path(file).is_file():
            raise BadSettings(f"{file}: no such file (server.tls_certificate, server.tls_key).")
    if not (_is_loopback(server.host) or server.tls_certificate or server.trusted_proxies):
        raise BadSettings(
            f"Plain HTTP on {server.host} would show tokens to the network: set "
            "server.tls_certificate and server.tls_key, or list your TLS proxy in "
            "server.trusted_proxies, or listen on 127.0.0.1."
        )


def _check_numbers(settings: Settings) -> None:
    server, identity = settings.server, settings.identity
    if server.port > _LAST_PORT:
        raise BadSettings(f"server.port must be at most {_LAST_PORT}.")
    least = [
        ("server.port", server.port, 0),
        ("server.workers", server.workers, 1),
        ("identity.token_seconds", identity.token_seconds, 1),
        ("identity.signing_key_days", identity.signing_key_days, 1),
        ("identity.session_idle_minutes", identity.session_idle_minutes, 1),
        ("identity.session_hours", identity.session_hours, 1),
        ("identity.failures_per_key", identity.failures_per_key, 1),
        ("identity.failures_per_address", identity.failures_per_address, 1),
    ]
    for region, each in settings.regions.items():
        least.append((f"regions.{region}.max_upload_bytes", each.max_upload_bytes, 1))
        least.append((f"regions.{region}.min_free_bytes", each.min_free_bytes, 0))
        least.append((f"regions.{region}.search_seconds", each.search_seconds, 1))
        least.append((f"regions.{region}.count_milliseconds", each.count_milliseconds, 0))
        least.append((f"regions.{region}.upload_hours", each.upload_hours, 1))
        least.append((f"regions.{region}.verify_days", each.verify_days, 0))
        rate = each.verify_bytes_per_second
        least.append((f"regions.{region}.verify_bytes_per_second", rate, 1))
        least.append((f"regions.{region}.bulk_ids", each.bulk_ids, 1))
        least.append((f"regions.{region}.bulk_days", each.bulk_days, 1))
        least.append((f"regions.{region}.undelete_days", each.undelete_days, 0))
        least.append((f"regions.{region}.quota_objects", each.quota_objects, 0))
        least.append((f"regions.{region}.quota_bytes", each.quota_bytes, 0))
        for name, quota in each.quotas.items():
            least.append((f"regions.{region}.quotas.{name}.objects", quota.objects, 0))
            least.append((f"regions.{region}.quotas.{name}.bytes", quota.bytes, 0))
    for name, value, smallest in least:
        if value < smallest:
            raise BadSettings(f"{name} must be at least {smallest}.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
