"""Counters and timings in Prometheus' text format, summed over all workers of a node."""

from __future__ import annotations

import os
from functools import lru_cache

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
    multiprocess,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_REQUESTS = Counter("soundkeep_requests_total", "Requests answered.", ("method", "route", "status"))
_SECONDS = Histogram(
    "soundkeep_request_seconds",
    "Time from a request's first byte to its answer's last.",
    ("route",),
    buckets=(0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10),
)
_BYTES_IN = Counter("soundkeep_uploaded_bytes_total", "Bytes of recordings taken in.", ("region",))
_VERIFIED = Counter(
    "soundkeep_verified_bytes_total", "Bytes of recordings that were read again.", ("region",)
)
_ROTTEN = Counter(
    "soundkeep_rotten_blobs_total", "Blobs whose bytes were found lost or changed.", ("region",)
)
_RETURNED = Counter(
    "soundkeep_returned_blobs_total", "Rotten blobs whose bytes were found again.", ("region",)
)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


def count_request(method: str, route: str, status: int, seconds: float) -> None:
    """One answered request; status 0 is a client that left before the answer began."""
    _requests_of(method if method in _METHODS else "other", route, status).inc()
    _seconds_of(route).observe(seconds)


@lru_cache(maxsize=4096)
def _requests_of(method: str, route: str, status: int) -> Counter:
    return _REQUESTS.labels(method, route, status)


@lru_cache(maxsize=1024)
def _seconds_of(route: str) -> Histogram:
    return _SECONDS.labels(route)


def count_upload(region: str, size: int) -> None:
    """One stored object of `size` bytes."""
    _BYTES_IN.labels(region).inc(size)


def count_verified(region: str, size: int) -> None:
    """One blob of `size` bytes was read again."""
    _VERIFIED.labels(region).inc(size)


def count_rotten(region: str) -> None:
    """One blob's bytes were found lost or changed: not counted again while they stay so."""
    _ROTTEN.labels(region).inc()


def count_returned(region: str) -> None:
    """One such blob's bytes were found as they had been."""
    _RETURNED.labels(region).inc()


def exposition() -> bytes:
    """All metrics, in the text format."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest()
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
