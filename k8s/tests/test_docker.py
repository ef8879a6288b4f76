"""What can be told of the images without building them."""

import pathlib
import re
import shutil
import subprocess

import pytest

import binaries
from kubelet import free_port
from manifests import BIN, ROOT, TIERS
from meaning import VERSION

DOCKERFILE = (ROOT / "Dockerfile").read_text()
# Of a slim Debian, beside the loader and what the kernel maps.
LIBRARIES = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "linux-vdso.so.1"}


def stage(name):
    """The instructions of a target, those of the stage it begins with included."""
    found = re.finditer(r"^FROM (\S+) AS (\w+)\n((?:(?!FROM ).*\n?)*)", DOCKERFILE, re.MULTILINE)
    stages = {match[2]: match for match in found}
    parent, own = stages[name][1], stages[name][3]
    return (stage(parent) if parent in stages else "") + own


def test_linters_have_nothing_to_say():
    subprocess.run([BIN / "hadolint", ROOT / "Dockerfile"], check=True, timeout=60)
    dclint = ROOT / "k8s" / "tests" / "node" / "node_modules" / ".bin" / "dclint"
    subprocess.run([dclint, "--quiet", ROOT / "docker-compose.yml"], check=True, timeout=60)


@pytest.mark.parametrize("tier", TIERS)
def test_an_image_is_what_its_binary_needs(tier):
    text = stage(tier)
    help_text = binaries.run(tier, "--help").stdout
    listeners = set(re.findall(r"\[env: \w*LISTEN=\]\s+\[default: [\d.]*:(\d+)\]", help_text))
    assert set(re.search(r"^EXPOSE (.+)$", text, re.MULTILINE)[1].split()) == listeners
    assert re.search(r"^USER 65532:65532$", text, re.MULTILINE)
    assert f'ENTRYPOINT ["{tier}"]' in text and f"/usr/local/bin/{tier} /usr/local/bin/{tier}" in text
    assert f'CMD ["{tier}", "healthcheck"]' in text
    assert f'version="{VERSION}"' in text and f'title="espigon-{tier}"' in text
    nobody = {"OPS_LISTEN": f"127.0.0.1:{free_port()}"}
    assert binaries.run(tier, "healthcheck", environment=nobody).returncode == 1
    linked = subprocess.run(["ldd", binaries.path(tier)], capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^\s+([\w.-]+) ", linked, re.MULTILINE)) <= LIBRARIES


def test_images_are_pinned():
    toolchain = re.search(r'channel = "(.+)"', (ROOT / "rust-toolchain.toml").read_text())[1]
    images = re.findall(r"^FROM ([\w./-]+:\S+)", DOCKERFILE, re.MULTILINE)
    assert images == [f"rust:{toolchain}-slim-bookworm", "debian:bookworm-20251229-slim"]
    assert f"RUSTUP_TOOLCHAIN={toolchain}" in DOCKERFILE


def build_context():
    """What is kept, by the names at the top, and the directories that are left out wherever they are."""
    ignored = (ROOT / ".dockerignore").read_text()
    return re.findall(r"^!(.+)$", ignored, re.MULTILINE), set(re.findall(r"^\*\*/(.+)$", ignored, re.MULTILINE))


@pytest.mark.parametrize("tier", TIERS)
def test_the_build_context_has_all_that_a_binary_is_made_of(tier):
    """Also what `include_str!` takes in: cargo writes all of it down beside the binary."""
    made_of = pathlib.Path(f"{binaries.path(tier)}.d").read_text().split(": ", 1)[1].split()
    names = [pathlib.Path(name).relative_to(ROOT).parts for name in made_of]
    assert any(name[-1].endswith(".rs") for name in names)
    kept, left_out = build_context()
    assert [name for name in names if name[0] not in kept or left_out & set(name)] == []


def test_the_build_context_is_the_whole_workspace(tmp_path):
    """Whoever adds a crate adds it to .dockerignore."""
    kept, _ = build_context()
    unwanted = shutil.ignore_patterns("target", "tests", "proptest-regressions", "node_modules")
    for name in kept:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=unwanted)
        elif source.exists():
            shutil.copy(source, tmp_path / name)
    command = ["cargo", "metadata", "--locked", "--format-version=1", "--no-deps"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120, stdout=subprocess.DEVNULL)
