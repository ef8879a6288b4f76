//! A target under libFuzzer, which keeps what reaches new code and changes that: `make fuzz TARGETS=link SECONDS=60`.
#![no_main]

use std::sync::LazyLock;

use fuzz::Target;

/// libFuzzer has the arguments, so the target's name is in the environment.
static TARGET: LazyLock<Target> = LazyLock::new(|| {
    #[expect(clippy::disallowed_methods, reason = "no setting of a process that serves")]
    let name = std::env::var("TARGET").unwrap_or_default();
    fuzz::target(&name).unwrap_or_else(|| panic!("TARGET is one of {:?}", fuzz::TARGETS))
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| (TARGET.run)(input));
