use super::*;

const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn on() -> Traces {
    // Nobody listens there, and nothing is sent before the test has ended.
    let endpoint = "http://127.0.0.1:9".parse().unwrap();
    let origin = Origin { service: "test", instance: "1" };
    Traces::start(Some(&endpoint), origin, &mut Registry::default()).unwrap()
}

#[tokio::test]
async fn who_is_off_has_no_parents() {
    assert!(Traces::default().parent(SAMPLED).is_none());
    assert!(on().parent(SAMPLED).is_some());
}

#[tokio::test]
async fn only_what_is_valid_and_sampled_is_traced() {
    let traces = on();
    for other in [
        "",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4bf92f3577b34da6a3ce929d0e0e47-00f067aa0ba902b7-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "é",
        "----",
    ] {
        assert!(traces.parent(other).is_none(), "{other:?}");
    }
}

#[tokio::test]
async fn what_is_passed_on_names_the_trace_and_the_span() {
    let span = on().parent(SAMPLED).unwrap().span("publish");
    let passed_on = span.traceparent();
    let parts: Vec<_> = passed_on.split('-').collect();
    assert_eq!((parts[0], parts[1], parts[3]), ("00", "4bf92f3577b34da6a3ce929d0e0e4736", "01"));
    assert_ne!(parts[2], "00f067aa0ba902b7");
    let below = span.parent().span("store").traceparent();
    assert_eq!(below.split('-').nth(1), Some(parts[1]));
    assert!(on().parent(&below).is_some());
}
