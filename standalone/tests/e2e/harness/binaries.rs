use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

/// A binary of the workspace, as built from what stands now.
pub(crate) fn workspace_binary(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(build).join(name)
}

/// The root of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Where cargo keeps what it builds, for this profile and others.
pub(crate) fn build_directory() -> PathBuf {
    directory().parent().unwrap().to_owned()
}

/// Builds all binaries beside this test's own. A lock, as test runners may use a process for each test.
fn build() -> PathBuf {
    let directory = directory();
    let lock = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("e2e-build.lock")).unwrap();
    lock.lock().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--workspace", "--bins", "--target-dir"]);
    cargo.arg(build_directory()).current_dir(repository()).stdout(Stdio::null());
    if directory.ends_with("release") {
        cargo.arg("--release");
    } else {
        // With a test, dependencies have the features that `cargo test --workspace` has built them with, and are not
        // built again.
        cargo.args(["--test", "bootstrap"]);
    }
    assert!(cargo.status().unwrap().success(), "cargo build --workspace --bins");
    directory
}

/// `<target>/<profile>`; the test itself is in `deps` below it.
fn directory() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_owned()
}
