"""The compose file's commands and environments as plain processes, each name resolved to loopback."""

import asyncio
import contextlib
import json
import re
import shutil
import subprocess

import pytest
import yaml
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidMessage, InvalidStatus

import binaries
from crowd import token
from kubelet import free_port, http
from manifests import ROOT, seconds

PATIENCE = 30
TIER = {"fanout-1": "fanout", "fanout-2": "fanout", "edge-1": "edge", "edge-2": "edge"}
OPS = {"edge": 9100, "fanout": 9101}


def interpolated(value):
    """As compose does where nothing is set: the defaults."""
    if isinstance(value, dict):
        return {key: interpolated(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [interpolated(inner) for inner in value]
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) if isinstance(value, str) else value


SERVICES = interpolated(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])


class Network:
    """Real ports of loopback for `service:port`."""

    def __init__(self):
        self.ports = {}

    def port(self, service, port):
        return self.ports.setdefault((service, int(port)), free_port())

    def resolve(self, own, text):
        names = "|".join(SERVICES)
        text = re.sub(rf"({names}):(\d+) port (\d+)", r"\1:\2 addr \1 port \3", text)
        text = re.sub(rf"addr ({names}) port (\d+)", lambda m: f"port {self.port(m[1], m[2])}", text)
        text = re.sub(rf"\b({names}):(\d+)", lambda m: f"127.0.0.1:{self.port(m[1], m[2])}", text)
        return re.sub(r"0\.0\.0\.0:(\d+)", lambda m: f"127.0.0.1:{self.port(own, m[1])}", text)


def command(network, name, directory):
    """The command line and the environment of a service."""
    service = SERVICES[name]
    given = {key: value for key, value in service.get("environment", {}).items() if value is not None}
    environment = {key: network.resolve(name, value) for key, value in given.items()}
    if name in TIER:
        # What the tier opens by default.
        environment = defaults(network, name) | environment
        return [binaries.path(TIER[name])], environment
    if name == "redis":
        port = network.port("redis", 6379)
        return [*service["command"], "--port", str(port), "--bind", "127.0.0.1"], environment
    [volume] = service["volumes"]
    config = directory / "haproxy.cfg"
    config.write_text(network.resolve(name, (ROOT / volume.split(":")[0]).read_text()))
    return ["haproxy", "-f", str(config)], environment


def defaults(network, name):
    help_text = binaries.run(TIER[name], "--help").stdout
    found = re.findall(r"\[env: (\w*LISTEN)=\]\s+\[default: ([\d.]*):(\d+)\]", help_text)
    return {key: f"127.0.0.1:{network.port(name, port)}" for key, _, port in found}


@contextlib.asynccontextmanager
async def up(network, directory):
    """All services in the order of `depends_on`; each must be healthy as its image or the file says."""
    processes = {}
    try:
        waiting = dict(SERVICES)
        while waiting:
            ready = [name for name in waiting if not set(waiting[name].get("depends_on", [])) & set(waiting)]
            assert ready, f"a circle: {list(waiting)}"
            for name in ready:
                line, environment = command(network, name, directory)
                log = (directory / f"{name}.log").open("wb")
                line[0] = shutil.which(line[0], path="/usr/bin:/usr/sbin:/usr/local/bin") or line[0]
                processes[name] = await asyncio.create_subprocess_exec(*line, env=environment, stdout=log, stderr=log)
                del waiting[name]
            for name in ready:
                await healthy(network, name, directory)
        yield processes
    finally:
        for process in processes.values():
            if process.returncode is None:
                process.kill()
                await process.wait()


async def healthy(network, name, directory):
    """Redis by the file's own check, the tiers by that of their images."""
    _, environment = command(network, name, directory)
    if name in TIER:
        line = [binaries.path(TIER[name]), "healthcheck"]
    elif name == "redis":
        _, *line = SERVICES[name]["healthcheck"]["test"]
        line = ["/usr/bin/" + line[0], "-p", str(network.port("redis", 6379)), *line[1:]]
    else:
        return
    async with asyncio.timeout(PATIENCE):
        while True:
            pipe, null = subprocess.PIPE, subprocess.DEVNULL
            asked = await asyncio.create_subprocess_exec(*line, env=environment, stdout=pipe, stderr=null)
            out, _ = await asked.communicate()
            if asked.returncode == 0 and b"NOAUTH" not in out and await ready(network, name):
                return
            await asyncio.sleep(0.1)


async def ready(network, name):
    """So that the load balancer finds all of them ready, whose shares are counted below."""
    return name not in TIER or (await http(network.port(name, OPS[TIER[name]]), "GET /readyz"))[0] == 200


async def through(port):
    """A socket through the load balancer, as soon as it lets one through."""
    bearer = token(SERVICES["edge-1"]["environment"]["JWT_SECRET"], "user", role="admin")
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                url = f"ws://127.0.0.1:{port}/ws?auto_join=false"
                return await connect(url, additional_headers={"Authorization": f"Bearer {bearer}"}, proxy=None)
            except (OSError, InvalidMessage, InvalidStatus):
                await asyncio.sleep(0.1)


async def flow(directory):
    network = Network()
    async with up(network, directory) as processes:
        sockets = [await through(network.port("load-balancer", 8080)) for _ in range(4)]
        for socket in sockets:
            await socket.send(json.dumps({"type": "join", "payload": {"room": "lobby"}}))
            assert (await told(socket, "joined"))["payload"]["seq"] == 0
        key = SERVICES["fanout-1"]["environment"]["API_KEYS"].split(":")[1]
        for number in range(1, 5):
            body = json.dumps({"body": {"n": number}}).encode()
            status, answer = await http(network.port("load-balancer", 7100), "POST /v1/rooms/lobby/publications", body, key)
            assert status == 200, answer
            for socket in sockets:
                message = await told(socket, "message")
                assert (message["seq"], message["body"]) == (number, {"n": number})
        # Sockets on both edges, and publications on both nodes.
        assert [await metric_of(network, name, "espigon_edge_connections") for name in ("edge-1", "edge-2")] == [2, 2]
        stored = 'espigon_fanout_publications_total{outcome="stored"}'
        assert [await metric_of(network, name, stored) for name in ("fanout-1", "fanout-2")] == [2, 2]
        for name in TIER:
            processes[name].terminate()
        for name in TIER:
            async with asyncio.timeout(seconds(SERVICES[name]["stop_grace_period"])):
                assert await processes[name].wait() == 0, name


async def told(socket, kind):
    async with asyncio.timeout(PATIENCE):
        while (message := json.loads(await socket.recv()))["type"] != kind:
            assert message["type"] in ("welcome", "reconnect"), message
        return message


async def metric_of(network, name, metric):
    _, text = await http(network.port(name, OPS[TIER[name]]), "GET /metrics")
    return float(re.search(rf"^{re.escape(metric)} (\S+)$", text.decode(), re.MULTILINE)[1])


def test_messages_flow_through_the_load_balancer(tmp_path):
    asyncio.run(flow(tmp_path))


@pytest.mark.parametrize("name", TIER)
def test_a_stop_fits_in_its_grace(name):
    service = SERVICES[name]
    stop = seconds(service["environment"].get("SHUTDOWN_TIMEOUT", "40s"))
    assert stop + 5 <= seconds(service["stop_grace_period"])
    assert set(service["environment"]) <= binaries.settings(TIER[name])


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned_and_contained(name):
    service = SERVICES[name]
    assert re.search(r":\d+\.\d+\.\d+[\w.-]*$", service["image"])
    assert service["read_only"] and service["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert service.get("build", {}).get("target") == TIER.get(name)
