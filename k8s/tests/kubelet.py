"""A cluster in small: runs the real binaries as rendered manifests say, and does to them what a kubelet, a Deployment's
controller and a Service's routing do. All times are those of the manifests, divided by SCALE alike."""

import asyncio
import pathlib
import random
import re
import socket
import time

import binaries
from manifests import TIERS, seconds, selects

SCALE = 2.5
# Until all nodes' routing knows of a change, at worst, as a preStop must allow for.
ROUTING_LAG = 5 / SCALE
# For a pod to become ready, not scaled: what a drill is not about.
PATIENCE = 20


class Noticed(Exception):
    """Somebody noticed the deploy."""


# Some are given long before anybody listens there.
given_ports = set()


def free_port():
    """One that stays free: given once, and outside of what the system gives to sockets that connect."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        if port not in given_ports:
            given_ports.add(port)
            return port


async def http(port, request, body=b"", token=None, patience=5.0):
    """One request; the status and the body of the answer."""
    head = f"{request} HTTP/1.1\r\nHost: drill\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    head += "Content-Type: application/json\r\n" + (f"Authorization: Bearer {token}\r\n" if token else "")
    async with asyncio.timeout(patience):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(head.encode() + b"\r\n" + body)
            answer = await reader.read()
            if not answer:
                raise ConnectionError("no answer")
            head, _, body = answer.partition(b"\r\n\r\n")
            return int(head.split()[1]), body
        finally:
            writer.close()


class World:
    """The pods, and what is outside of the manifests: where Redis and the backend are, and what the secrets hold."""

    def __init__(self, cluster, directory, redis, backend, secrets, patience=PATIENCE):
        self.cluster, self.directory, self.secrets, self.patience = cluster, pathlib.Path(directory), secrets, patience
        self.outside = {"REDIS_ADDR": f"127.0.0.1:{redis}", "BACKEND_URL": f"http://127.0.0.1:{backend}"}
        self.pods = []
        # Addresses, as a container network would give them to pods: for each a real port for each port of the pod.
        self.addresses = {tier: [{} for _ in range(4)] for tier in TIERS}

    def real(self, address, port):
        if port not in address:
            address[port] = free_port()
        return address[port]

    def environment(self, deployment, address):
        """As the container would see it, on ports that are free here and with shorter times."""
        names = deployment.environment()
        for path, (secret, key) in deployment.files().items():
            file = self.directory / f"{secret}-{key}"
            if not file.exists():
                file.write_text(self.secrets[key])
            names = {name: str(file) if value == path else value for name, value in names.items()}
        for name, value in names.items():
            if name in self.outside:
                names[name] = self.outside[name]
            elif name.endswith("LISTEN"):
                host, _, port = value.rpartition(":")
                names[name] = f"{host}:{self.real(address, int(port))}"
            elif re.fullmatch(r"\d+(s|m|ms)", value):
                names[name] = f"{int(seconds(value) / SCALE * 1000)}ms"
            elif match := re.fullmatch(r"dns://([\w-]+):(\d+)", value):
                names[name] = self.look_up(match[1], int(match[2]))
        return names

    def look_up(self, name, port):
        """All addresses behind a headless Service; what listens there later is found by trying again."""
        selected = self.cluster.selected({"matchLabels": self.cluster.find("Service", name)["spec"]["selector"]})
        ports = [self.real(address, port) for d in selected for address in self.addresses[d.name]]
        return ",".join(f"http://127.0.0.1:{port}" for port in ports or [free_port()])

    def endpoint(self, service):
        """A port behind a Service, as its routing chooses one."""
        spec = self.cluster.find("Service", service)["spec"]
        [port] = spec["ports"]
        selected = [pod for pod in self.pods if selects({"matchLabels": spec["selector"]}, pod.deployment.labels)]
        routed = [pod for pod in selected if pod.is_routed()]
        if not routed:
            raise ConnectionError(f"nothing is behind {service}")
        pod = random.choice(routed)
        return self.real(pod.address, pod.deployment.port(port["targetPort"]))

    async def start(self, tier):
        """A new pod, once it is ready."""
        deployment = self.cluster.deployments()[tier]
        taken = [pod.address for pod in self.pods if pod.process is None or pod.process.returncode is None]
        pod = Pod(self, deployment, next(a for a in self.addresses[tier] if not any(a is t for t in taken)))
        self.pods.append(pod)
        await pod.run()
        return pod

    async def roll_out(self, tier):
        """One more before one less, until all are new."""
        ending = []
        for old in [pod for pod in self.pods if pod.deployment.name == tier and not pod.deleted]:
            new = await self.start(tier)
            # So long it must be ready to count as available.
            await asyncio.sleep(new.deployment.spec["minReadySeconds"] / SCALE)
            ending.append(asyncio.create_task(old.delete()))
        await asyncio.gather(*ending)

    async def watch(self):
        """Ends the drill when a pod fails."""
        while True:
            for pod in self.pods:
                if pod.failure:
                    raise pod.failure
            await asyncio.sleep(0.05)

    def end(self):
        for pod in self.pods:
            if pod.process and pod.process.returncode is None:
                pod.process.kill()


class Pod:
    def __init__(self, world, deployment, address):
        self.world, self.deployment, self.address = world, deployment, address
        self.process = self.failure = self.left_routing = None
        self.ready = self.deleted = False
        self.name = f"{deployment.name} {len(world.pods)}"

    def is_routed(self):
        """A pod is routed to while it is ready, and for some time after."""
        return self.ready or (self.left_routing or 0) > time.monotonic() - ROUTING_LAG

    def set_ready(self, ready):
        if self.ready and not ready:
            self.left_routing = time.monotonic()
        self.ready = ready

    async def run(self):
        """Starts the process, and returns when it is ready. Probes go on."""
        environment = self.world.environment(self.deployment, self.address)
        log = (self.world.directory / f"{self.name}.log").open("wb")
        command = binaries.path(self.deployment.name)
        self.process = await asyncio.create_subprocess_exec(command, env=environment, stdout=log, stderr=log)
        self.tasks = [asyncio.create_task(self.live()), asyncio.create_task(self.exit())]
        limit = time.monotonic() + self.world.patience
        while not self.ready:
            if self.failure:
                raise self.failure
            if time.monotonic() > limit:
                raise Noticed(f"{self.name} was never ready")
            await asyncio.sleep(0.02)

    async def exit(self):
        code = await self.process.wait()
        if code != 0 or not self.deleted:
            self.failure = self.failure or Noticed(f"{self.name} exited with {code}: {self.last_line()}")
        self.set_ready(False)

    def last_line(self):
        return (self.world.directory / f"{self.name}.log").read_text().strip().split("\n")[-1]

    async def live(self):
        """The three probes, in their order."""
        probes = self.deployment.probes
        if not await self.passes(probes["startup"], until=True):
            self.failure = Noticed(f"{self.name} did not start")
            return
        liveness = asyncio.create_task(self.passes(probes["liveness"], until=False))
        readiness = asyncio.create_task(self.keep_ready(probes["readiness"]))
        if not await liveness and not self.deleted:
            self.failure = Noticed(f"{self.name} would be restarted: liveness")
        readiness.cancel()

    async def passes(self, probe, until):
        """Probes until it passes, or for as long as it does. False once it has failed too often in a row."""
        failures = 0
        while failures < probe.get("failureThreshold", 3) and not self.deleted:
            if not await self.ask(probe):
                failures += 1
            elif until:
                return True
            else:
                failures = 0
            await asyncio.sleep(probe.get("periodSeconds", 10) / SCALE)
        return False

    async def keep_ready(self, probe):
        failures = 0
        while not self.deleted:
            failures = 0 if await self.ask(probe) else failures + 1
            if failures in (0, probe.get("failureThreshold", 3)) and not self.deleted:
                self.set_ready(failures == 0)
            await asyncio.sleep(probe.get("periodSeconds", 10) / SCALE)

    async def ask(self, probe):
        port = self.world.real(self.address, self.deployment.port(probe["httpGet"]["port"]))
        try:
            status, _ = await http(port, f"GET {probe['httpGet']['path']}", patience=probe.get("timeoutSeconds", 1) / SCALE)
        except (OSError, TimeoutError):
            return False
        return 200 <= status < 400

    async def delete(self):
        """Readiness off, preStop, SIGTERM, what is left of the grace, SIGKILL."""
        self.deleted = True
        self.set_ready(False)
        killed_at = time.monotonic() + self.deployment.grace / SCALE
        await asyncio.sleep(self.deployment.pre_stop() / SCALE)
        self.process.terminate()
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + killed_at - time.monotonic()):
                await self.process.wait()
        except TimeoutError:
            self.failure = Noticed(f"{self.name} was killed: its grace was over")
            self.process.kill()
