"""`--check-config`: what is wrong is told before anything starts."""

import socket

import pytest

import binaries

GOOD = {
    "edge": {"JWT_SECRET": "a-secret-of-more-than-thirty-two-bytes"},
    "fanout": {},
}
BAD = [
    ("edge", {"PING_PERIOD": "90s"}, "PING_PERIOD"),
    ("edge", {"JWT_SECRET": ""}, "JWT_SECRET"),
    ("edge", {"DRAIN_WINDOW": "50s"}, "DRAIN_WINDOW"),
    ("edge", {"JOIN_ROUTES": "order-{id}"}, "JOIN_ROUTES"),
    ("fanout", {"HISTORY_SIZE": "many"}, "HISTORY_SIZE"),
    ("fanout", {"REDIS_ADDR": "redis://"}, "REDIS_ADDR"),
    ("fanout", {"LINK_LISTEN": "0.0.0.0:7000"}, "LINK_LISTEN"),
]


@pytest.mark.parametrize("tier", GOOD)
def test_good_settings_are_said_to_be_good_and_nothing_is_bound(tier):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ops = f"127.0.0.1:{taken.getsockname()[1]}"
        checked = binaries.run(tier, "--check-config", environment={**GOOD[tier], "OPS_LISTEN": ops})
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(("tier", "wrong", "name"), BAD)
def test_a_bad_setting_is_named_in_one_line(tier, wrong, name):
    checked = binaries.run(tier, "--check-config", environment={**GOOD[tier], **wrong})
    assert checked.returncode == 64, checked.stderr
    assert len(checked.stderr.strip().splitlines()) == 1 and name in checked.stderr


@pytest.mark.parametrize("tier", GOOD)
def test_an_unknown_flag_is_named(tier):
    checked = binaries.run(tier, "--check-config", "--histery-size=1", environment=GOOD[tier])
    assert checked.returncode == 64 and "--histery-size" in checked.stderr
