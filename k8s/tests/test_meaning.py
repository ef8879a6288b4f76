import re
import subprocess

import pytest

import meaning
import mutations
from manifests import BIN, OVERLAYS, load, rendered

# Kinds that clusters learn from others; test_custom.py has their schemas.
CUSTOM = ["HTTPRoute", "PodMonitor", "PrometheusRule"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_manifests_mean_what_they_should(overlay):
    assert meaning.problems(load(overlay)) == []


@pytest.mark.parametrize("mutation", mutations.MUTATIONS, ids=lambda mutation: mutation.what)
def test_mistakes_are_noticed(mutation):
    broken = mutation.apply(load("prod"))
    try:
        assert meaning.problems(broken) != []
    except (KeyError, ValueError, AttributeError) as error:
        pytest.fail(f"a check fell over instead of saying what is wrong: {error!r}")


@pytest.mark.parametrize("route, kind, path", [
    ("gateway-api", "HTTPRoute", "spec/rules/0/backendRefs/0/port"),
    ("ingress", "Ingress", "spec/rules/0/http/paths/0/backend/service/port/name"),
])  # fmt: skip
def test_routes_to_nowhere_are_noticed(route, kind, path):
    broken = mutations.Mutation("", kind, "edge", path, "elsewhere").apply(load(route))
    assert any("a route leads to" in problem for problem in meaning.problems(broken))


@pytest.mark.parametrize("kind, name, path, value", [
    ("ConfigMap", "edge", "data/LINK_TLS_CERT", "/etc/espigon/jwt-secret"),
    ("ConfigMap", "edge", "data/LINK_TLS_CA", "/etc/espigon-tls/tls.key"),
    ("ConfigMap", "fanout", "data/API_TLS_KEY", "/etc/espigon-tls/tls.crt"),
    ("ConfigMap", "fanout", "data/ALLOW_PLAINTEXT", "true"),
    ("Deployment", "fanout", "spec/template/spec/volumes/0/secret/secretName", "espigon-edge-tls"),
    ("Service", "fanout", "metadata/name", "realtime"),
    ("Service", "fanout-headless", "spec/ports/0/appProtocol", "kubernetes.io/h2c"),
])  # fmt: skip
def test_mistakes_with_certificates_are_noticed(kind, name, path, value):
    broken = mutations.Mutation(f"{kind} {name} {path}", kind, name, path, value).apply(load("prod-tls"))
    assert any(re.match("encrypted|environment", problem) for problem in meaning.problems(broken))


# The oldest has `sleep` in preStop by default first; the newest is what the schemas reach.
@pytest.mark.parametrize("version", ["1.30", "1.32", "1.34", "1.35", "1.37"])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_schemas(overlay, version, tmp_path):
    file = tmp_path / "rendered.yaml"
    file.write_text(rendered(overlay))
    command = [BIN / "kubernetes-validate", "--strict", "-k", version, file]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    told = checked.stdout + checked.stderr
    assert checked.returncode == 0, told
    known = [kind for kind in re.findall("^kind: (.+)$", rendered(overlay), re.MULTILINE) if kind not in CUSTOM]
    assert told.count(" passed for resource ") == len(known)
