"""What no schema knows: whether the manifests mean what they should. Each check yields what is wrong."""

import re
import tempfile
import tomllib

import yaml

import binaries
import certificates
import network
from manifests import ROOT, TIERS, seconds, selects

VERSION = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
LISTENERS = ["LISTEN", "LINK_LISTEN", "API_LISTEN", "OPS_LISTEN"]
# Time that a process has to end in after its own hard stop, before it is killed.
MARGIN = 5


def problems(cluster):
    return [f"{check.__name__}: {problem}" for check in CHECKS for problem in check(cluster)]


def images(cluster):
    for deployment in cluster.deployments().values():
        if not re.search(r":\d+\.\d+\.\d+[\w.-]*(@sha256:\w{64})?$", deployment.image):
            yield f"{deployment.image} is not pinned"
        if deployment.name in TIERS and deployment.image != f"espigon/{deployment.name}:{VERSION}":
            yield f"{deployment.image} is not what this tree makes"


def selectors(cluster):
    for deployment in cluster.deployments().values():
        if not selects(deployment.spec["selector"], deployment.labels):
            yield f"Deployment {deployment.name} does not select its pods"
        for spread in deployment.pod.get("topologySpreadConstraints", []):
            if not selects(spread["labelSelector"], deployment.labels):
                yield f"Deployment {deployment.name} spreads other pods"
    for document in cluster.all("Service", "PodDisruptionBudget", "PodMonitor"):
        selector, name = document["spec"]["selector"], document["metadata"]["name"]
        if document["kind"] == "Service":
            selector = {"matchLabels": selector}
        if [d.name for d in cluster.selected(selector)] != [name.removesuffix("-headless")]:
            yield f"{document['kind']} {name} does not select its Deployment's pods alone"
    for policy in cluster.all("NetworkPolicy"):
        if not cluster.selected(policy["spec"]["podSelector"]):
            yield f"NetworkPolicy {policy['metadata']['name']} selects nothing"


def listeners(cluster):
    """What the containers declare is what the processes open."""
    for tier in TIERS:
        deployment = cluster.deployments()[tier]
        opened = set()
        for name in LISTENERS:
            if name not in binaries.settings(tier):
                continue
            host, _, port = deployment.environment().get(name, ":0").rpartition(":")
            opened.add(int(port))
            if host != "0.0.0.0":
                yield f"{tier} does not open {name} to the cluster"
        if opened != set(deployment.ports.values()):
            yield f"{tier} opens {opened} and declares {deployment.ports}"


def ports(cluster):
    for service in cluster.all("Service"):
        for deployment in cluster.selected({"matchLabels": service["spec"]["selector"]}):
            for port in service["spec"]["ports"]:
                # The same name at both ends, so that one cannot be taken for another.
                if port["targetPort"] != port["name"] or port["name"] not in deployment.ports:
                    yield f"Service {service['metadata']['name']}: {port['targetPort']} is no port of {deployment.name}"
    for monitor in cluster.all("PodMonitor"):
        for deployment in cluster.selected(monitor["spec"]["selector"]):
            for endpoint in monitor["spec"]["podMetricsEndpoints"]:
                if endpoint["port"] not in deployment.ports or endpoint["path"] != "/metrics":
                    yield f"PodMonitor {monitor['metadata']['name']} asks where nothing answers"
    for name, port in routes(cluster):
        service = cluster.find("Service", name)
        declared = service["spec"]["ports"] if service else []
        if name != "edge" or not any(port in (entry["name"], entry["port"]) for entry in declared):
            yield f"a route leads to {name}:{port}"


def routes(cluster):
    for route in cluster.all("HTTPRoute"):
        for rule in route["spec"]["rules"]:
            yield from ((ref["name"], ref["port"]) for ref in rule["backendRefs"])
    for ingress in cluster.all("Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                service = path["backend"]["service"]
                yield service["name"], service["port"].get("name") or service["port"]["number"]


def probes(cluster):
    for tier in TIERS:
        deployment = cluster.deployments()[tier]
        for kind, path in [("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/readyz")]:
            asked = (deployment.probes[kind] or {}).get("httpGet", {})
            if asked.get("path") != path or asked.get("port") != "ops":
                yield f"{tier}: {kind} asks {asked}"


def environment(cluster):
    """Names that the binaries know, and values that they take, with the files that the secrets are mounted as."""
    for tier in TIERS:
        deployment = cluster.deployments()[tier]
        names = deployment.environment()
        for name in set(names) - binaries.settings(tier):
            yield f"{tier} knows no {name}"
        for name in names:
            if re.search("SECRET|TOKEN|KEYS|PASSWORD", name) and not name.endswith("_FILE"):
                yield f"{tier}: {name} is no secret in a ConfigMap"
        with tempfile.TemporaryDirectory() as directory:
            for index, (path, (secret, key)) in enumerate(deployment.files().items()):
                content = (cluster.secret_keys(secret) or certificates.secret(secret)).get(key)
                if content is None:
                    yield f"{tier}: {path} is of no key of a Secret"
                    continue
                file = f"{directory}/{index}"
                with open(file, "w") as out:
                    out.write(content)
                names = {name: file if value == path else value for name, value in names.items()}
            checked = binaries.run(tier, "--check-config", environment=names)
        if checked.returncode != 0:
            yield f"{tier} --check-config: {checked.returncode} {checked.stderr.strip()}"


def addresses(cluster):
    """What the settings name is there, and reached at the port that it listens on."""
    edge, fanout = (cluster.deployments()[tier] for tier in TIERS)
    found = edge.environment().get("FANOUT_ADDR", "")
    match = re.fullmatch(r"dns://([\w-]+):(\d+)", found)
    service = cluster.find("Service", match[1]) if match else None
    if not service or service["spec"].get("clusterIP") != "None" or not service["spec"].get("publishNotReadyAddresses"):
        yield f"FANOUT_ADDR={found} is no headless Service with all addresses"
    elif int(match[2]) != fanout.ports.get("link"):
        # A headless Service's name has addresses only: no port is translated.
        yield f"FANOUT_ADDR={found} is not where fanout nodes listen"
    redis = fanout.environment().get("REDIS_ADDR", "")
    if not redis:
        yield "without REDIS_ADDR each fanout node is a store of its own"
    elif "." not in redis and not cluster.find("Service", redis.split(":")[0]):
        yield f"REDIS_ADDR={redis} is no Service"


def encrypted(cluster):
    """Where certificates are mounted, both tiers use them, nothing is taken without, and the names are those called."""
    made = certificates.certificates()
    wanted = {"edge": ["LINK_TLS"], "fanout": ["LINK_TLS", "API_TLS"]}
    tiers = [cluster.deployments()[tier] for tier in TIERS]
    if not any(secret in made for tier in tiers for secret, _ in tier.files().values()):
        return
    for tier in tiers:
        names, files = tier.environment(), tier.files()
        for use in wanted[tier.name]:
            given = [files.get(names.get(f"{use}_{part}")) for part in ["CERT", "KEY"]]
            secret = given[0] and given[0][0]
            if secret not in made or given != [(secret, "tls.crt"), (secret, "tls.key")]:
                yield f"{tier.name}: {use} is of {given}"
            elif tier.name == "fanout":
                yield from (f"its certificate is not for {name}" for name in called(cluster) - set(made[secret]["dnsNames"]))
        if names.get("ALLOW_PLAINTEXT") == "true":
            yield f"{tier.name} takes credentials in the clear all the same"
    spaces = {document["metadata"]["namespace"] for document in certificates.example().values()}
    if spaces != {cluster.all("Namespace")[0]["metadata"]["name"]}:
        yield f"certificates are made in {spaces}"
    for service in cluster.all("Service"):
        if any("h2c" in port.get("appProtocol", "") for port in service["spec"]["ports"]):
            yield f"{service['metadata']['name']} says that it is in the clear"


def called(cluster):
    """Names by which fanout nodes are called: that of links, and that of backends."""
    edge, fanout = (cluster.deployments()[tier] for tier in TIERS)
    services = [service for service in cluster.all("Service") if selects({"matchLabels": service["spec"]["selector"]}, fanout.labels)]
    address = edge.environment().get("FANOUT_ADDR", "")
    return {service["metadata"]["name"] for service in services} | {address.removeprefix("dns://").split(":")[0]}


def time_to_stop(cluster):
    for tier in TIERS:
        deployment = cluster.deployments()[tier]
        stop = seconds(deployment.environment().get("SHUTDOWN_TIMEOUT", "40s"))
        if deployment.pre_stop() + stop + MARGIN > deployment.grace:
            yield f"{tier}: {deployment.pre_stop()} s + {stop} s + {MARGIN} s do not fit in {deployment.grace} s"
        if deployment.pre_stop() < 5:
            yield f"{tier}: a preStop of {deployment.pre_stop()} s is over before routing knows"


def rollout(cluster):
    for tier in TIERS:
        spec = cluster.deployments()[tier].spec
        if spec["strategy"]["rollingUpdate"] != {"maxSurge": 1, "maxUnavailable": 0} or spec.get("minReadySeconds", 0) < 10:
            yield f"{tier}: one more before one less, each given time"
        budget = cluster.find("PodDisruptionBudget", tier)
        rule = {"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow"}
        if not budget or {key: value for key, value in budget["spec"].items() if key != "selector"} != rule:
            yield f"{tier} has no budget of one pod at a time"


def autoscaling(cluster):
    """Where there is any, of both tiers."""
    scalers = cluster.all("HorizontalPodAutoscaler")
    if not scalers:
        return
    served = set(adapter_metrics())
    for tier in TIERS:
        deployment = cluster.deployments()[tier]
        target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": tier}
        own = [scaler for scaler in scalers if scaler["spec"]["scaleTargetRef"] == target]
        if len(own) != 1 or "replicas" in deployment.spec:
            yield f"{tier}: one autoscaler, and no replicas of the Deployment's own"
            continue
        spec = own[0]["spec"]
        if spec["minReplicas"] < 2:
            yield f"{tier}: one alone is no spare"
        down = spec["behavior"]["scaleDown"]
        [policy] = down["policies"]
        if policy["type"] != "Pods" or policy["value"] != 1 or policy["periodSeconds"] < deployment.grace:
            yield f"{tier}: scales down before the last one is gone"
        if down["stabilizationWindowSeconds"] < 300:
            yield f"{tier}: scales down at each lull"
        pods = {m["pods"]["metric"]["name"]: m["pods"]["target"] for m in spec["metrics"] if m["type"] == "Pods"}
        if len(pods) != 1 or not set(pods) <= served:
            yield f"{tier}: {set(pods)} are not served by k8s/prometheus-adapter.yaml"
        if not any(m["type"] == "Resource" and m["resource"]["name"] == "cpu" for m in spec["metrics"]):
            yield f"{tier}: no second metric, should the first be missing"
        if "cpu" not in deployment.container["resources"]["requests"]:
            yield f"{tier}: a share of no request"
        for target in pods.values() if tier == "edge" else []:
            most = int(deployment.environment()["MAX_CONNECTIONS"])
            if int(target["averageValue"].replace("k", "000")) > 0.75 * most:
                yield f"{tier}: full before there is another"


def adapter_metrics():
    """Name of each metric that the Prometheus adapter serves → the metric of ours that it is made from."""
    rules = yaml.safe_load((ROOT / "k8s" / "prometheus-adapter.yaml").read_text())
    sources = [(rule, rule["seriesQuery"].split("{")[0]) for rule in rules]
    return {rule.get("name", {}).get("as", source): source for rule, source in sources}


def restricted(cluster):
    """Pod security standard `restricted`, and no way to the API server."""
    [namespace] = cluster.all("Namespace")
    if namespace["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "the namespace takes any pod"
    for deployment in cluster.deployments().values():
        pod, container = deployment.pod, deployment.container["securityContext"]
        good = (
            pod["securityContext"].get("runAsNonRoot") is True
            and pod["securityContext"].get("runAsUser", 0) > 0
            and pod["securityContext"].get("seccompProfile") == {"type": "RuntimeDefault"}
            and container.get("allowPrivilegeEscalation") is False
            and container.get("readOnlyRootFilesystem") is True
            and container.get("capabilities") == {"drop": ["ALL"]}
        )
        if not good:
            yield f"{deployment.name} may more than it needs"
        if "memory" not in deployment.container["resources"]["limits"]:
            yield f"{deployment.name} has no limit of memory"
        account = cluster.find("ServiceAccount", pod.get("serviceAccountName", ""))
        if not account or account["automountServiceAccountToken"] or pod.get("automountServiceAccountToken", True):
            yield f"{deployment.name} gets a token"


def ways(cluster):
    """Exactly those that the settings need, both ends of each, and all else denied."""
    needed = needed_ways(cluster)
    opened = network.ways(cluster)
    yield from (f"not open: {way}" for way in sorted(map(str, needed - opened)))
    yield from (f"open: {way}" for way in sorted(map(str, opened - needed)))
    policies = [policy["spec"] for policy in cluster.all("NetworkPolicy")]
    if {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} not in policies:
        yield "what no rule speaks of is not denied"


def needed_ways(cluster):
    deployments = cluster.deployments()
    edge, fanout = (deployments[tier] for tier in TIERS)
    backend, dns = "any/espigon-backend=true", "metadata.name=kube-system/k8s-app=kube-dns"
    link = int(edge.environment().get("FANOUT_ADDR", ":0").rpartition(":")[2])
    redis = int(fanout.environment().get("REDIS_ADDR", ":0").rpartition(":")[2])
    needed = {("out", name, dns, 53) for name in deployments}
    needed |= {("in", network.ANYONE, "edge", edge.ports["ws"])}
    needed |= {("in", "edge", "fanout", link), ("out", "edge", "fanout", link)}
    needed |= {("in", backend, "fanout", fanout.ports["api"])}
    if "redis" in deployments:
        needed |= {("in", "fanout", "redis", redis), ("out", "fanout", "redis", redis)}
    else:
        needed |= {("out", "fanout", "metadata.name=redis/name=redis", redis)}
    if url := edge.environment().get("BACKEND_URL"):
        needed |= {("out", "edge", backend, int(url.rpartition(":")[2]))}
    if cluster.all("PodMonitor"):
        needed |= {("in", "metadata.name=monitoring/name=prometheus", tier, deployments[tier].ports["ops"]) for tier in TIERS}
    return needed


CHECKS = [
    images, selectors, listeners, ports, probes, environment, addresses, encrypted, time_to_stop, rollout, autoscaling, restricted, ways,
]  # fmt: skip
