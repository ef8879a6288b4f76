//! Runs a target on files: `cargo run -p fuzz -- socket fuzz/findings/socket-found`.

fn main() {
    let mut arguments = std::env::args().skip(1);
    let target = arguments.next().and_then(|name| fuzz::target(&name));
    let target = target.unwrap_or_else(|| panic!("which target of {:?}, on which files?", fuzz::TARGETS));
    for path in arguments {
        let input = std::fs::read(&path).unwrap_or_else(|error| panic!("read {path}: {error}"));
        (target.run)(&input);
    }
}
