"""Alerts, dashboard and OPERATIONS.md speak of the metrics that there are."""

import asyncio
import contextlib
import json
import re
import subprocess

import pytest
import yaml
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

import binaries
from crowd import token
from kubelet import free_port, http
from manifests import ROOT
from outside import backend, issuer

K8S = ROOT / "k8s"
RULE = yaml.safe_load((K8S / "components" / "alerts" / "prometheus-rule.yaml").read_text())
ALERTS = [rule for group in RULE["spec"]["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((K8S / "dashboard.json").read_text())
OPERATIONS = (ROOT / "OPERATIONS.md").read_text()
SECURITY = (ROOT / "SECURITY.md").read_text()
PATIENCE = 20


@contextlib.asynccontextmanager
async def process(tier, environment):
    """One of a tier, and the port of its ops listener, once it answers."""
    ops = free_port()
    environment = environment | {"OPS_LISTEN": f"127.0.0.1:{ops}"}
    process = await asyncio.create_subprocess_exec(binaries.path(tier), env=environment, stderr=subprocess.DEVNULL)
    try:
        async with asyncio.timeout(PATIENCE):
            while await status(ops) != 200:
                await asyncio.sleep(0.05)
        yield ops
    finally:
        process.kill()
        await process.wait()


async def status(ops):
    try:
        return (await http(ops, "GET /readyz"))[0]
    except OSError:
        return None


async def shown():
    """What both show once each kind of thing that is counted by label has happened."""
    link, api, ws = free_port(), free_port(), free_port()
    fanout = {"LINK_LISTEN": f"127.0.0.1:{link}", "API_LISTEN": f"127.0.0.1:{api}"}
    async with backend() as judge, process("fanout", fanout) as fanout_ops:
        edge = {"LISTEN": f"127.0.0.1:{ws}", "FANOUT_ADDR": f"http://127.0.0.1:{link}"}
        async with issuer() as keys, process("edge", edge | {"JWKS_URL": f"http://127.0.0.1:{keys}"}) as edge_ops:
            of_keys = await metrics(edge_ops)
        with_backend = {"JWT_SECRET": "secret", "BACKEND_URL": f"http://127.0.0.1:{judge}"}
        async with process("edge", edge | with_backend) as edge_ops:
            with pytest.raises(InvalidStatus):
                await connect(f"ws://127.0.0.1:{ws}/ws", proxy=None)
            bearer = {"Authorization": f"Bearer {token('secret', 'user')}"}
            async with connect(f"ws://127.0.0.1:{ws}/ws", additional_headers=bearer, proxy=None) as client:
                await client.send('{"type":"join","payload":{"room":" not a room"}}')
                await client.send('{"type":"join","payload":{"room":"lobby"}}')
                await client.send('{"type":"broadcast","id":"b","payload":{"room":"lobby","body":1}}')
                async with asyncio.timeout(PATIENCE):
                    while json.loads(await client.recv())["type"] != "ack":
                        pass
            assert (await http(api, "GET /v1/status"))[0] == 200
            async with asyncio.timeout(PATIENCE):
                while "espigon_edge_closed_total{" not in (edge_text := await metrics(edge_ops)):
                    await asyncio.sleep(0.05)
            return of_keys + edge_text + await metrics(fanout_ops)


async def metrics(ops):
    return (await http(ops, "GET /metrics"))[1].decode()


@pytest.fixture(scope="module")
def live():
    """Name → type; of counters the name that a sample has."""
    found = re.findall(r"^# TYPE (\S+) (\S+)$", asyncio.run(shown()), re.MULTILINE)
    return {name + ("_total" if kind == "counter" else ""): kind for name, kind in found}


def expressions():
    yield from (rule["expr"] for rule in ALERTS)
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"].replace("$__rate_interval", "5m") for target in panel.get("targets", []))


def promtool(*arguments, directory):
    run = subprocess.run(["promtool", *arguments], cwd=directory, capture_output=True, text=True, check=False, timeout=60)
    return run.returncode, run.stdout + run.stderr


def test_each_expression_is_one_of_what_there_is(live, tmp_path):
    rules = [{"record": f"r:{number}", "expr": expression} for number, expression in enumerate(expressions())]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    code, told = promtool("check", "rules", "rules.yaml", directory=tmp_path)
    assert code == 0 and f"{len(rules)} rules found" in told, told
    samples = set(live) | {f"{name}_bucket" for name, kind in live.items() if kind == "histogram"}
    for expression in expressions():
        names = set(re.findall(r"espigon_(?:edge|fanout)_\w+", expression))
        assert names <= samples, expression
        assert names or "__name__" in expression, expression


def test_alerts_fire_when_they_should(tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(RULE["spec"]))
    tests = (K8S / "tests" / "alerts.yaml").read_text()
    (tmp_path / "alerts.yaml").write_text(tests)
    code, told = promtool("test", "rules", "alerts.yaml", directory=tmp_path)
    assert code == 0, told
    # Each of them fires in one of the tests.
    assert set(re.findall(r'alertname="(\w+)"', tests)) == {rule["alert"] for rule in ALERTS}


def test_what_to_do_is_told_of_each_alert():
    told = re.findall(r"^\| `(Espigon\w+)` \|", OPERATIONS, re.MULTILINE)
    assert told == [rule["alert"] for rule in ALERTS]


def test_the_table_has_all_metrics(live):
    table = dict(re.findall(r"^\| `(espigon_\w+)` \| (\w+) \|", OPERATIONS, re.MULTILINE))
    assert table == live


def test_what_counts_a_limit_is_there(live):
    named = set(re.findall(r"`(espigon_\w+)`", SECURITY))
    assert named and named <= set(live)
