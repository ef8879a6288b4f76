use std::{fs::File, path::Path};

/// For a test that needs what a small machine has: one of them runs at a time, beside the small ones. Waits for its turn,
/// which lasts as long as the value. A lock, as test runners may use a process for each test.
pub(crate) async fn serial() -> File {
    let file = File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("e2e-serial.lock")).unwrap();
    let locked = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await.unwrap();
    locked.unwrap()
}
