#!/usr/bin/env python3
"""Breaks checks one at a time, and expects a test to fail each time: of the edge the one that the contract's table names,
of the store's fences the chaos test.

Works on a copy of what is committed or changed, with a build folder of its own, so it can run beside other work.
`make test-deep` runs it; it takes some ten seconds for each mutation of the edge after a first build, two minutes for
each fence. `mutations.py edge` or `mutations.py fences` does one half.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
COPY = ROOT / "target" / "mutations"
TABLE = ROOT / "standalone" / "tests" / "e2e" / "contract.md"

# File below edge/src, what stands there, what is put in its place, and the test that must fail.
MUTATIONS = [
    ("auth/jwt.rs", "if now >= exp {", "if now > exp + 60.0 {", "auth::jwt::tests::expiry_has_no_leeway"),
    ("auth/jwt.rs", 'required.push("iss");', "", "auth::jwt::tests::issuer_and_audience_must_be_there_and_match_when_set"),
    ("auth/jwt.rs", 'required.push("aud");', "", "auth::jwt::tests::issuer_and_audience_must_be_there_and_match_when_set"),
    ("auth/jwt.rs", 'role.eq_ignore_ascii_case("admin")', 'role == "admin"', "auth::jwt::tests::rooms_and_role_are_read"),
    ("auth/user.rs", "if id.starts_with('@') {", "if id.starts_with('\\0') {", "auth::user::tests::ids_fit_in_the_name_of_a_room"),
    ("auth/origin.rs", "start.strip_suffix('.')", "Some(start)", "auth::origin::tests::a_star_before_the_host_means_sub_domains_only"),
    ("auth/origin.rs", "host && origin.scheme == self.origin.scheme &&", "host &&", "auth::origin::tests::look_alikes_are_refused"),
    ("auth/origin.rs", "== self.origin.scheme && origin.port == self.origin.port", "== self.origin.scheme", "auth::origin::tests::look_alikes_are_refused"),
    ("auth/origin.rs", "let Some(origin) = origin else { return true };", "let Some(origin) = origin else { return false };", "auth::origin::tests::no_origin_is_no_browser"),
    ("auth/origin.rs", "self.host == name && self.port == port.or(default)", "self.host == name", "auth::origin::tests::unset_means_the_host_asked_for"),
    ("auth/claims.rs", "None => **entry == **room,", "None => room.starts_with(&**entry),", "auth::claims::tests::entries_are_names_or_begin_names"),
    ("authorize/claims.rs", "if claims.rooms.cover(room) {", "if claims.rooms.cover(room) || true {", "authorize::claims::tests::no_claim_no_entry"),
    ("authorize.rs", "if owner == user.as_str() {", "if owner.starts_with(user.as_str()) {", "authorize::tests::a_users_room_is_joined_by_that_user_alone"),
    ("authorize.rs", "Decision::Allowed { publish: false } } else", "Decision::Allowed { publish: true } } else", "authorize::tests::a_users_room_is_joined_by_that_user_alone"),
    ("authorize/backend/answer.rs", "StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS =>", "StatusCode::REQUEST_TIMEOUT =>", "authorize::backend::answer::tests::statuses_speak_first"),
    ("authorize/backend/answer.rs", "if body.trim_ascii_start().first() != Some(&b'{') {", "if body.is_empty() {", "authorize::backend::answer::tests::only_the_json_agreed_on_is_an_answer"),
    ("authorize/backend/routes.rs", '"" | "." | ".."', '"" | "."', "authorize::backend::routes::tests::the_first_route_that_matches_is_asked"),
    ("outbound.rs", "redirect::Policy::none()", "redirect::Policy::default()", "authorize::backend::tests::redirects_are_not_followed"),
    ("authorize/grant.rs", "(granted.expires_ms > now_ms).then_some(granted)", "Some(granted).filter(|_| now_ms >= 0)", "authorize::grant::tests::a_grant_is_good_for_its_room_its_user_and_its_time"),
    ("authorize/grant.rs", "[claimed, &length, room.as_bytes(), user.as_bytes()]", "[claimed, &length[..0], room.as_bytes(), user.as_bytes()]", "authorize::grant::tests::a_grant_is_good_for_its_room_its_user_and_its_time"),
    ("authorize/grant.rs", "hmac::verify(key, &signed, tag).is_ok()", "hmac::verify(key, &signed, tag).is_ok() || true", "authorize::grant::tests::what_is_forged_or_broken_is_none"),
    ("protocol/client.rs", "const MAX_ID_BYTES: usize = 64;", "const MAX_ID_BYTES: usize = 65;", "protocol::client::tests::ids_are_strings_of_64_bytes_at_most"),
    ("protocol/client.rs", "if !text.trim_ascii_start().starts_with('{') {", "if text.is_empty() {", "protocol::client::tests::arrays_are_no_messages"),
    ("protocol/code.rs", "Self::AuthorizationUnavailable | Self::Unavailable => Some(1500),", "Self::AuthorizationUnavailable => Some(1500),", "protocol::code::tests::final_errors_say_nothing_of_repeating_and_passing_ones_when"),
    ("session.rs", "{ Charge::Join } else", "{ Charge::Message } else", "session::tests::a_client_over_its_rate_is_told_and_then_closed"),
    ("session/limits.rs", "const MAX_MALFORMED: u8 = 20;", "const MAX_MALFORMED: u8 = 21;", "session::tests::too_many_errors_in_a_row_close"),
    ("session/limits.rs", "self.malformed = 0;", "", "session::tests::too_many_errors_in_a_row_close"),
    ("session/rate.rs", "self.left > -rate.burst", "self.left > -10.0 * rate.burst", "session::rate::tests::a_burst_then_the_rate_then_a_debt_that_has_an_end"),
    ("session/results.rs", "if decision == Decision::Denied && self.rooms.membership(room).is_some() {", "if decision == Decision::Unavailable && self.rooms.membership(room).is_some() {", "session::tests::joining_again_asks_again_and_a_no_ends_the_membership"),
    ("session/requests.rs", "Some(Membership { publish: true }) => self.broadcast(", "Some(Membership { .. }) => self.broadcast(", "session::tests::joining_again_asks_again_and_a_no_ends_the_membership"),
    ("session.rs", ".filter(|busy| busy.op == op)", ".filter(|busy| busy.op >= op)", "session::tests::leave_cancels_a_join_that_waits_for_the_hub"),
    ("session.rs", "!self.is_automatic(room) && !covers(room)", "!covers(room)", "session::tests::rooms_that_a_newer_token_does_not_cover_are_left"),
    ("session/automatic.rs", "Ok(room) if UserId::of_room(&room).is_some() => {", "Ok(room) if UserId::of_room(&room).is_none() => {", "session::automatic::tests::the_own_room_comes_first_and_other_users_rooms_never"),
    ("upgrade/handshake.rs", "if offered && !realtime {", "if offered && !realtime && bearer.is_none() {", "upgrade::handshake::tests::subprotocols_are_ours_or_none"),
    ("upgrade/refusal.rs", "StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS =>", "StatusCode::SERVICE_UNAVAILABLE =>", "upgrade::refusal::tests::each_refusal_has_its_headers_and_its_body"),
]

# What keeps a store that fails from harm: file below fanout/src, what stands there, what is put in its place.
FENCES = [
    # Fencing: all servers look like the one that numbered a room.
    ("broker/redis/fence.lua", "return string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')", "return '0'"),
    # The epoch check: a page of another epoch is not one of ours.
    ("room/advance.rs", "if store.epoch == *mine {", "if store.epoch == *mine || !mine.is_empty() {"),
    # Dedup: what was stored is not stored again.
    ("broker/redis/publish.lua", "local known = key_ttl ~= '0' and redis.pcall('GET', key)", "local known = false"),
]
CHAOS = "chaos::seeded::replay"
# Of a run that finds all of these.
CHAOS_SETTINGS = {"SEED": "2", "SECONDS": "60"}


def test(names, package=("-p", "edge", "--lib"), flags=()):
    """Whether the tests pass; a mutation that does not build is a mistake of these lists."""
    command = ["cargo", "test", "--quiet", "--locked", *package, "--target-dir", str(COPY / "target"), "--", "--exact", *flags, *names]
    run = subprocess.run(command, cwd=COPY / "tree", env={**os.environ, **CHAOS_SETTINGS}, capture_output=True, text=True, timeout=1800, check=False)
    if "could not compile" in run.stderr:
        sys.exit(run.stderr)
    passed = re.search(r"(\d+) passed; (\d+) failed", run.stdout)
    if passed is None or int(passed[1]) + int(passed[2]) != len(names):
        sys.exit(f"not all of {names} ran:\n{run.stdout}{run.stderr}")
    return run.returncode == 0


def chaos():
    return test([CHAOS], ("-p", "standalone", "--test", "e2e"), ("--ignored",))


def copy():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    shutil.rmtree(COPY / "tree", ignore_errors=True)
    for name in filter(None, files):
        target = COPY / "tree" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # With the time of now: what is built of the last mutation must not pass for built of this.
        shutil.copyfile(ROOT / name, target)


def survives(crate, file, old, new, passes):
    """Whether the tests still pass; `None` if the list is wrong."""
    path = COPY / "tree" / crate / "src" / file
    text = path.read_text()
    if text.count(old) != 1:
        print(f"WRONG  {file}: {old!r} stands there {text.count(old)} times")
        return None
    path.write_text(text.replace(old, new))
    survived = passes()
    path.write_text(text)
    print(f"{'SURVIVED' if survived else 'caught'}  {file}: {old}", flush=True)
    return survived


def main():
    halves = sys.argv[1:] or ["edge", "fences"]
    copy()
    found = []
    if "edge" in halves:
        table = TABLE.read_text()
        names = sorted({name for *_, name in MUTATIONS})
        missing = [name for name in names if f"`edge::{name}`" not in table]
        if missing:
            sys.exit(f"not in the contract's table: {missing}")
        if not test(names):
            sys.exit("the tests fail before anything is broken")
        found += [survives("edge", file, old, new, lambda name=name: test([name])) for file, old, new, name in MUTATIONS]
    if "fences" in halves:
        if not chaos():
            sys.exit("the chaos test fails before anything is broken")
        found += [survives("fanout", file, old, new, chaos) for file, old, new in FENCES]
    print(f"{found.count(False)} caught, {found.count(True)} survived, {found.count(None)} wrong")
    sys.exit(0 if all(survived is False for survived in found) else 1)


if __name__ == "__main__":
    main()
