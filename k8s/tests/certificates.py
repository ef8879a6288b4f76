"""The Secrets that cert-manager would make of k8s/certificates.example.yaml, made by openssl."""

import functools
import pathlib
import subprocess
import tempfile

import yaml

from manifests import ROOT


@functools.cache
def example():
    documents = yaml.safe_load_all((ROOT / "k8s" / "certificates.example.yaml").read_text())
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def certificates():
    """Those that are no authority, by the Secret that they go to."""
    found = [document["spec"] for (kind, _), document in example().items() if kind == "Certificate"]
    return {spec["secretName"]: spec for spec in found if not spec.get("isCA")}


@functools.cache
def secret(name):
    """Its keys, or none if no certificate is for it."""
    spec = certificates().get(name)
    if not spec:
        return {}
    with tempfile.TemporaryDirectory() as directory:
        at = pathlib.Path(directory)
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]
        openssl(at, "req", "-x509", *key, "-subj", "/CN=espigon", "-keyout", "ca.key", "-out", "ca.crt")
        names = ",".join(f"DNS:{name}" for name in spec["dnsNames"])
        signed = ["-CA", "ca.crt", "-CAkey", "ca.key", "-addext", f"subjectAltName={names}"]
        openssl(at, "req", "-x509", *key, *signed, "-subj", f"/CN={spec['commonName']}", "-keyout", "tls.key", "-out", "tls.crt")
        return {file: (at / file).read_text() for file in ["tls.crt", "tls.key", "ca.crt"]}


def openssl(directory, *arguments):
    subprocess.run(["openssl", *arguments], cwd=directory, capture_output=True, check=True, timeout=30)
