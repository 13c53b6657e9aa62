"""Metrics: what was counted comes out, and over all workers of a node together."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from soundkeep.foundation import metrics

COUNTS = """
from soundkeep.foundation import metrics
metrics.count_request("GET", "/multi", 200, 0.01)
metrics.count_upload("multi", 1000)
"""
SHOWS = "import sys; from soundkeep.foundation import metrics; sys.stdout.buffer.write(metrics.exposition())"


def samples(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def shown(name, **labels):
    """The value of one sample now; 0 where there is none."""
    return samples(metrics.exposition().decode()).get((name, tuple(sorted(labels.items()))), 0)


def test_a_request_is_counted_by_method_route_and_status():
    labels = {"method": "GET", "route": "/counted", "status": "200"}
    before = shown("soundkeep_requests_total", **labels)

    metrics.count_request("GET", "/counted", 200, 0.01)
    metrics.count_request("GET", "/counted", 404, 0.01)

    assert shown("soundkeep_requests_total", **labels) == before + 1


def test_a_made_up_method_is_other():
    before = shown("soundkeep_requests_total", method="other", route="/odd", status="405")

    metrics.count_request("BREW", "/odd", 405, 0.01)

    assert (
        shown("soundkeep_requests_total", method="other", route="/odd", status="405") == before + 1
    )


@pytest.mark.parametrize(("bound", "counted"), [("0.025", 0), ("0.1", 1), ("+Inf", 1)])
def test_a_request_is_timed_into_its_bucket(bound, counted):
    route = f"/timed-{bound}"

    metrics.count_request("GET", route, 200, 0.05)

    assert shown("soundkeep_request_seconds_bucket", route=route, le=bound) == counted
    assert shown("soundkeep_request_seconds_sum", route=route) == pytest.approx(0.05)


def test_uploaded_bytes_add_up():
    before = shown("soundkeep_uploaded_bytes_total", region="summed")

    metrics.count_upload("summed", 100)
    metrics.count_upload("summed", 50)

    assert shown("soundkeep_uploaded_bytes_total", region="summed") == before + 150


def test_the_exposition_has_help_and_type():
    text = metrics.exposition().decode()

    assert "# HELP soundkeep_requests_total Requests answered.\n" in text
    assert "# TYPE soundkeep_request_seconds histogram\n" in text


def test_workers_are_summed_even_when_they_are_gone(tmp_path):
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", COUNTS], env=env, check=True)

    done = subprocess.run([sys.executable, "-c", SHOWS], env=env, check=True, capture_output=True)

    found = samples(done.stdout.decode())
    requests = (("method", "GET"), ("route", "/multi"), ("status", "200"))
    assert found["soundkeep_requests_total", requests] == 2
    assert found["soundkeep_uploaded_bytes_total", (("region", "multi"),)] == 2000
