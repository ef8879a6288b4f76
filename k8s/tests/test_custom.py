"""Schemas of kinds that clusters learn from others, which the usual validators do not know."""

import json
import subprocess

from manifests import ROOT, load
from mutations import Mutation


def validated(documents):
    command = ["node", ROOT / "k8s" / "tests" / "node" / "custom.js"]
    lines = "\n".join(json.dumps(document) for document in documents)
    run = subprocess.run(command, input=lines, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(answers) == len(documents)
    return answers


def test_routes_and_monitors_fit_their_schemas():
    documents = load("gateway-api").all("HTTPRoute", "PodMonitor", "PrometheusRule")
    assert validated(documents) == ["good"] * 4


def test_mistakes_are_noticed():
    cluster = load("gateway-api")
    for kind, name, path, value in [
        ("HTTPRoute", "edge", "spec/rules/0/backendRefs/0/port", "eighty"),
        ("HTTPRoute", "edge", "spec/rules/0/matches/0/path/type", "Exactly"),
        ("PodMonitor", "edge", "spec/podMetricsEndpoints", "ops"),
        ("PodMonitor", "edge", "spec/podMetricsEndpoints/0", {"prot": "ops"}),
        ("PodMonitor", "edge", "spec/selector", {"matchLabel": {}}),
        ("PrometheusRule", "espigon", "spec/groups/0/rules/0/expr", {}),
        ("PrometheusRule", "espigon", "spec/groups/0/rules/0", {"alert": "A", "expr": "1", "foor": "1m"}),
    ]:
        broken = Mutation("", kind, name, path, value).apply(cluster).find(kind, name)
        assert validated([broken]) != ["good"], (kind, path, value)
