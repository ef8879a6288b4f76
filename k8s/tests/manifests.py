"""The rendered manifests, and how a cluster reads them."""

import base64
import copy
import functools
import pathlib
import re
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
OVERLAYS = ["dev", "prod", "prod-tls", "gateway-api", "ingress"]
TIERS = ["edge", "fanout"]
BIN = pathlib.Path(sys.executable).parent


@functools.cache
def rendered(overlay):
    command = [BIN / "kubectl", "kustomize", ROOT / "k8s" / "overlays" / overlay]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def load(overlay):
    return Cluster(yaml.safe_load_all(rendered(overlay)))


def seconds(text):
    """Of a duration as our settings write it."""
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


def selects(selector, labels):
    """Whether a label selector matches; the empty one matches all."""
    for rule in selector.get("matchExpressions", []):
        if rule["operator"] != "In" or labels.get(rule["key"]) not in rule["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


class Cluster:
    def __init__(self, documents):
        self.documents = [document for document in documents if document]

    def copy(self):
        return Cluster(copy.deepcopy(self.documents))

    def all(self, *kinds):
        return [document for document in self.documents if document["kind"] in kinds]

    def find(self, kind, name):
        """By name, or by the name that kustomize put a hash to. `None` if there is none."""
        for document in self.all(kind):
            own = document["metadata"]["name"]
            if own == name or re.fullmatch(re.escape(name) + "-[a-z0-9]{10}", own):
                return document
        return None

    def deployments(self):
        return {document["metadata"]["name"]: Deployment(self, document) for document in self.all("Deployment")}

    def selected(self, selector):
        """The Deployments whose pods this selector matches."""
        return [deployment for deployment in self.deployments().values() if selects(selector, deployment.labels)]

    def secret_keys(self, name):
        """Of a Secret rendered, else of the template."""
        secret = self.find("Secret", name)
        if secret:
            return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
        template = yaml.safe_load((ROOT / "k8s" / "secret.example.yaml").read_text())
        return template["stringData"] if template["metadata"]["name"] == name else {}


class Deployment:
    """One, with its only container."""

    def __init__(self, cluster, document):
        self.cluster = cluster
        self.name = document["metadata"]["name"]
        self.spec = document["spec"]
        self.pod = self.spec["template"]["spec"]
        self.labels = self.spec["template"]["metadata"]["labels"]
        [self.container] = self.pod["containers"]
        self.image = self.container["image"]
        self.ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        self.probes = {kind: self.container.get(f"{kind}Probe") for kind in ["startup", "liveness", "readiness"]}
        self.grace = self.pod.get("terminationGracePeriodSeconds", 30)

    def pre_stop(self):
        return self.container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)

    def environment(self):
        """What the container's process gets to see, but for what comes from Secrets by name."""
        names = {}
        for source in self.container.get("envFrom", []):
            names.update(self.cluster.find("ConfigMap", source["configMapRef"]["name"])["data"])
        names.update({entry["name"]: entry["value"] for entry in self.container.get("env", []) if "value" in entry})
        return names

    def files(self):
        """Path in the container → (Secret, key) that it is made from."""
        mounts = {mount["name"]: mount["mountPath"] for mount in self.container.get("volumeMounts", [])}
        return {
            f"{mounts[volume['name']]}/{item['path']}": (volume["secret"]["secretName"], item["key"])
            for volume in self.pod.get("volumes", [])
            for item in volume["secret"]["items"]
        }

    def port(self, port):
        """A port by name or number, as a number."""
        return self.ports.get(port) if isinstance(port, str) else port
