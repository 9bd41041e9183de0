"""``/metrics``: counters, histograms and gauges as Prometheus reads them."""

from __future__ import annotations

import re
import threading

from starlette.testclient import TestClient

from hone.serve.metrics import CONTENT_TYPE, Metrics
from tests.serve.conftest import rows, upload

_LINE = re.compile(r"(?P<name>[a-z_]+)(?:\{(?P<labels>.*)\})? (?P<value>[-+.e\d]+)")


def parsed(text: str) -> dict[tuple[str, str], float]:
    """Values by (name, labels); every line must be one that Prometheus reads."""
    found = {}
    for line in text.splitlines():
        if line.startswith("# "):
            assert re.match(r"# (HELP [a-z_]+ \S.*|TYPE [a-z_]+ (counter|gauge|histogram))$", line), line
            continue
        match = _LINE.fullmatch(line)
        assert match, line
        key = (match["name"], match["labels"] or "")
        assert key not in found, f"{key} stands there twice"
        found[key] = float(match["value"])
    return found


def test_counters_add_up_by_their_labels() -> None:
    metrics = Metrics()
    metrics.count("hone_things_total", "Things.", kind="a")
    metrics.count("hone_things_total", "Things.", 2.5, kind="a")
    metrics.count("hone_things_total", "Things.", kind="b")
    assert parsed(metrics.text()) == {("hone_things_total", 'kind="a"'): 3.5, ("hone_things_total", 'kind="b"'): 1}
    assert metrics.text().splitlines()[:2] == ["# HELP hone_things_total Things.", "# TYPE hone_things_total counter"]


def test_a_histogram_counts_what_is_at_most_each_bound() -> None:
    metrics = Metrics()
    for seconds in (0.005, 0.3, 100.0):
        metrics.time("hone_wait_seconds", "Waiting.", seconds, route="/x")
    found = parsed(metrics.text())
    buckets = {
        labels.rpartition('le="')[2].rstrip('"'): value
        for (name, labels), value in found.items()
        if name == "hone_wait_seconds_bucket"
    }
    assert (buckets["0.005"], buckets["0.25"], buckets["0.5"], buckets["60"], buckets["+Inf"]) == (1, 1, 2, 2, 3)
    assert list(buckets.values()) == sorted(buckets.values()), "the counts of buckets include those below"
    assert found["hone_wait_seconds_count", 'route="/x"'] == 3
    assert found["hone_wait_seconds_sum", 'route="/x"'] == 100.305


def test_a_gauge_is_read_when_it_is_asked_for_and_labels_are_quoted() -> None:
    metrics = Metrics()
    now = {(("status", 'a "b"\\\n'),): 1.0}
    metrics.gauge("hone_now", "Now.", lambda: now)
    assert 'hone_now{status="a \\"b\\"\\\\\\n"} 1' in metrics.text()
    now.clear()
    assert "hone_now{" not in metrics.text()


def test_nothing_is_lost_among_threads() -> None:
    metrics = Metrics()

    def count() -> None:
        for _ in range(500):
            metrics.count("hone_things_total", "Things.")
            metrics.time("hone_wait_seconds", "Waiting.", 0.1)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = parsed(metrics.text())
    assert found["hone_things_total", ""] == found["hone_wait_seconds_count", ""] == 4000


def test_the_route_tells_of_requests_by_route_and_of_jobs_by_status(client: TestClient) -> None:
    for _ in range(2):
        client.get("/v1/fine_tuning/jobs/ftjob-none")
    client.get("/no/such/page")
    body = {"model": "small", "training_file": upload(client, rows(12))}
    client.post("/v1/fine_tuning/jobs", json=body).raise_for_status()
    answered = client.get("/metrics")
    assert answered.headers["content-type"] == CONTENT_TYPE
    found = parsed(answered.text)
    job = 'method="GET",route="/v1/fine_tuning/jobs/{fine_tuning_job_id}",status="404"'
    assert found["hone_requests_total", job] == 2
    assert found["hone_requests_total", 'method="GET",route="unmatched",status="404"'] == 1
    assert found["hone_request_seconds_count", 'route="/v1/fine_tuning/jobs"'] == 1
    assert found["hone_jobs", 'status="queued"'] == 1
    assert found["hone_answers_in_progress", ""] == 0
    assert "ftjob-none" not in answered.text, "what clients write is no label: there would be no end of series"
