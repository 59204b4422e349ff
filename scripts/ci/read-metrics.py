"""Reads /metrics in both formats with Prometheus' own parsers: read-metrics.py URL TOKEN."""

import sys
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

url, token = sys.argv[1:]


def read(accept):
    headers = {"Authorization": f"Bearer {token}", "Accept": accept}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def samples(families):
    """Name and labels of every sample; figures move between two looks."""
    return {(sample.name, tuple(sorted(sample.labels.items()))) for family in families for sample in family.samples}


kind, text = read("text/plain")
assert kind == "text/plain; version=0.0.4; charset=utf-8", kind
families = list(prometheus(text))
assert all(family.type != "unknown" for family in families), [f.name for f in families if f.type == "unknown"]
old = samples(families)

kind, text = read("application/openmetrics-text; version=1.0.0")
assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8", kind
new = samples(open_metrics(text))

assert old == new, old ^ new
assert any(name == "sandbox_executions_total" for name, _ in new), new
runs = sum(sample.value for family in families for sample in family.samples if sample.name == "sandbox_executions_total")
assert runs > 0, "nothing was run"
print(f"/metrics: {len(new)} series, the same in both formats; {runs:.0f} executions counted")
