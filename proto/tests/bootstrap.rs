//! The generated code is checked in, so that a build needs neither `protoc` nor a build script.
//! This test generates it anew (with protox, a compiler in Rust) and fails, after writing it, when it had changed.

use std::{fs, path::Path};

use prost::Message as _;

#[test]
fn generated_code_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let include = root.join("proto");
    let files = ["publisher.proto", "link.proto"].map(|name| include.join("realtime/v1").join(name));
    let descriptors = protox::compile(files, [&include]).expect("the .proto files compile");

    let fresh = tempdir();
    tonic_prost_build::configure()
        .bytes(".")
        .out_dir(&fresh)
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors.clone())
        .expect("code generation");
    fs::write(fresh.join("realtime.v1.fds"), descriptors.encode_to_vec()).expect("descriptors written");

    let checked_in = root.join("src/generated");
    let mut stale = Vec::new();
    for name in ["realtime.v1.rs", "realtime.v1.fds"] {
        let fresh = fs::read(fresh.join(name)).expect("generated");
        if fs::read(checked_in.join(name)).ok().as_deref() != Some(&*fresh) {
            fs::write(checked_in.join(name), fresh).expect("written");
            stale.push(name);
        }
    }
    fs::remove_dir_all(&fresh).expect("removed");
    assert!(
        stale.is_empty(),
        "{stale:?} in src/generated did not match proto/: now rewritten, look at the difference and commit it"
    );
}

fn tempdir() -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("espigon-proto-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a temporary folder");
    dir
}
