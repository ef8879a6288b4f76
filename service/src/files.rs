//! The limit of open files. It is a property of the machine or the container runtime, not of a Pod, so a process takes
//! all it can get.

/// Raises the soft limit of open files to the hard limit and returns it.
pub fn raise_limit() -> std::io::Result<u64> {
    let (soft, hard) = rlimit::Resource::NOFILE.get()?;
    if soft < hard {
        rlimit::Resource::NOFILE.set(hard, hard)?;
    }
    tracing::info!(soft, hard, "open files: soft limit raised to the hard limit");
    Ok(hard)
}
