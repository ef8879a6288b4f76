use super::*;

fn allows(setting: &str, origin: &str) -> bool {
    Origins::parse(Some(setting)).unwrap().allows(Some(origin), Some("edge.example"))
}

fn same(origin: &str, host: &str) -> bool {
    Origins::parse(None).unwrap().allows(Some(origin), Some(host))
}

#[test]
fn no_origin_is_no_browser() {
    for setting in [None, Some("*"), Some("https://example.com")] {
        assert!(Origins::parse(setting).unwrap().allows(None, None));
    }
}

#[test]
fn listed_origins_match_by_scheme_host_and_port() {
    let list = "https://example.com, http://localhost:3000,https://[::1]:8443";
    for good in [
        "https://example.com",
        "https://EXAMPLE.com",
        "HTTPS://example.com",
        "https://example.com:443",
        "http://localhost:3000",
        "https://[::1]:8443",
    ] {
        assert!(allows(list, good), "{good}");
    }
    for bad in [
        "http://example.com",
        "https://example.com:8443",
        "https://example.com:80",
        "https://www.example.com",
        "http://localhost",
        "http://localhost:30000",
        "https://[::2]:8443",
        "null",
        "",
    ] {
        assert!(!allows(list, bad), "{bad}");
    }
    assert!(allows("https://example.com:443", "https://example.com"));
    assert!(allows("http://example.com", "http://example.com:80"));
    assert!(allows("capacitor://localhost", "capacitor://localhost"));
}

#[test]
fn look_alikes_are_refused() {
    for bad in [
        // Another scheme on the same port, and another port.
        "http://example.com:443",
        "https://example.com:8443",
        "https://example.com.evil.org",
        "https://evilexample.com",
        "https://example.com@evil.org",
        "https://evil.org#example.com",
        "https://evil.org/https://example.com",
        "https://example.com/",
        "https://example.com.",
        "https://example.com:",
        "https://example.com:+443",
        "https://example.com:443:443",
        "https://example.com https://evil.org",
        "https://example.com,https://example.com",
        "https:example.com",
        "//example.com",
        "example.com",
        "https://exämple.com",
        " https://example.com",
    ] {
        assert!(!allows("https://example.com,https://*.example.com", bad), "{bad}");
    }
}

#[test]
fn a_star_before_the_host_means_sub_domains_only() {
    let list = "https://*.example.com";
    assert!(allows(list, "https://a.example.com"));
    assert!(allows(list, "https://A.b.Example.com:443"));
    for bad in [
        "https://example.com",
        "https://.example.com",
        "https://a..example.com",
        "https://aexample.com",
        "http://a.example.com",
        "https://a.example.com:8443",
        "https://a.example.com.evil.org",
    ] {
        assert!(!allows(list, bad), "{bad}");
    }
    assert!(allows("http://*.localhost:3000", "http://app.localhost:3000"));
}

#[test]
fn only_the_single_star_lets_everything_in() {
    for origin in ["https://anything.example", "null", "nonsense"] {
        assert!(allows("*", origin), "{origin}");
    }
}

#[test]
fn unset_means_the_host_asked_for() {
    for setting in [None, Some(""), Some("  ")] {
        assert_eq!(Origins::parse(setting), Ok(Origins::Same));
    }
    assert!(same("https://example.com", "example.com"));
    assert!(same("https://example.com", "EXAMPLE.com:443"));
    assert!(same("http://example.com:80", "example.com"));
    assert!(same("http://localhost:8080", "localhost:8080"));
    assert!(same("http://[::1]:8080", "[::1]:8080"));
    for (origin, host) in [
        ("http://localhost:3000", "localhost:8080"),
        ("https://example.com", "example.com:80"),
        ("http://example.com", "example.com:443"),
        ("https://example.com.evil.org", "example.com"),
        ("https://sub.example.com", "example.com"),
        ("capacitor://localhost", "localhost"),
        ("null", "null"),
        ("null", "example.com"),
        ("https://example.com", ""),
        ("https://", ""),
    ] {
        assert!(!same(origin, host), "{origin} at {host}");
    }
    assert!(!Origins::Same.allows(Some("https://example.com"), None));
}

#[test]
fn bad_settings_are_refused() {
    for bad in [
        "example.com",
        "https://example.com,*",
        "https://example.com,",
        "null",
        "https://",
        "https://example.com/",
        "https://*",
        "https://*.",
        "https://a.*.example.com",
        "https://*example.com",
        "https://*.[::1]",
        "https://user@example.com",
        "https://example.com:99999",
        "https://exämple.com",
        "://example.com",
    ] {
        assert!(Origins::parse(Some(bad)).is_err(), "{bad}");
    }
}
